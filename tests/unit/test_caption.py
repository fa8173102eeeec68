"""Captions: asked for once, whatever happens to the server or to us, and fit for training."""

import base64
import io
import json
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.footage.caption.server import RateLimit
from tests.caption_server import CAPTION, HANG, serving
from tests.footage import RATE, PoolHere, film, rows, scene
from tests.prepare_command import prepare
from tests.vision_language import WORDS, save_model

KEY = "sk-secret-0123"
CLIPS = 4


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "film.mp4", scene(1, 10 * CLIPS))


@pytest.fixture
def root(video: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of four clips without captions. Tokens are words here."""
    monkeypatch.setattr(
        "cogvx_exp.footage.caption.tokens.token_counter", lambda *_: lambda texts: [len(text.split()) for text in texts]
    )
    monkeypatch.setattr("cogvx_exp.footage.caption.caption.DecodingPool", PoolHere)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (in_tmp / "film.mp4").symlink_to(video)
    write(in_tmp, *({} for _ in range(CLIPS)))
    return in_tmp


def write(root: Path, *values: dict) -> None:
    lines = [
        {"video": "film.mp4", "start": 10 * index / RATE, "end": 10 * (index + 1) / RATE} | value
        for index, value in enumerate(values)
    ]
    (root / "dataset.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def caption(root: Path, server: object, *more: str) -> int:
    url = [f"caption.url={server.url}"] if server else []
    place = ("data=jsonl", f"data.root={root}", "data.allow_outside_root=true", "cache_dir=cache")
    quick = ("caption.model=tiny", "caption.backoff=0.05", "data.decode_workers=1")
    return prepare(["mode=caption", *place, *quick, *url, *more])


def captions(root: Path) -> list[str | None]:
    return [row.get("caption") for row in rows(root / "dataset.jsonl")]


def test_every_clip_gets_a_caption_and_is_asked_once(root: Path) -> None:
    with serving() as server:
        settings = [
            "caption.examples=[A fine one.]",
            "caption.trigger=TOK",
            "caption.frames=3",
            "caption.height=48",
        ]
        assert caption(root, server, *settings) == 0
        assert captions(root) == [f"TOK {CAPTION}"] * CLIPS
        assert len(server.bodies) == CLIPS
        *images, text = server.bodies[0]["messages"][0]["content"]
        assert [part["type"] for part in images] == ["image_url"] * 3
        picture = Image.open(io.BytesIO(base64.b64decode(images[0]["image_url"]["url"].partition(",")[2])))
        assert picture.height == 48
        assert text["text"].startswith("These are frames of one video clip")
        assert text["text"].endswith("\n\nA fine one.")
        assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.2, 400)
        assert caption(root, server, *settings) == 0
        write(root, {}, {"caption": "mine"}, {"keep": False}, {})
        assert caption(root, server, *settings) == 0
        assert len(server.bodies) == CLIPS, "nothing is asked twice"
        assert captions(root) == [f"TOK {CAPTION}", "mine", None, f"TOK {CAPTION}"]
        server.caption = lambda body: "Something else."
        assert caption(root, server, "caption.overwrite=true", "caption.frames=2") == 0
        assert len(server.bodies) == CLIPS + 3
        assert captions(root) == ["Something else.", "Something else.", None, "Something else."]


def test_failures_that_pass_are_repeated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, {})
    failures = ["429", "500", "hang", "cut", "junk", "empty"]
    with serving(*failures) as server:
        assert caption(root, server, "caption.retries=6", "caption.timeout=0.5") == 0
        assert captions(root) == [CAPTION]
        assert len(server.bodies) == 7
        waited = np.diff(server.times)
        assert waited[0] >= 0.2, "as the server wants it"
        assert 0.5 <= waited[2] < HANG
        assert waited[5] > 0.05 * 8 * 0.75, "the wait is doubled each time"
    write(root, {"start": 0.04})
    with serving("500", "500") as server:
        assert caption(root, server, "caption.retries=1") == 2
        assert len(server.bodies) == 2
    table = (root / "cache" / "faults.csv").read_text()
    assert "the server gave no caption (500: error 500" in table
    assert "1 clip could not be captioned" in capsys.readouterr().err


def test_a_failed_clip_does_not_stop_the_others(root: Path) -> None:
    with serving("ok", "400", "ok", "ok", caption=lambda body: CAPTION) as server:
        assert caption(root, server, "caption.concurrency=1") == 2
        assert captions(root) == [CAPTION, None, CAPTION, CAPTION]
        server.caption = lambda body: "I'm sorry, I cannot."
        assert caption(root, server, "data.on_error=skip") == 0
        assert len(server.bodies) == CLIPS + 1
        assert "the model did not describe it" in (root / "cache" / "faults.csv").read_text()
        server.caption = lambda body: CAPTION
        assert caption(root, server) == 0
        assert captions(root) == [CAPTION] * CLIPS


def test_what_was_answered_before_the_server_failed_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving("ok", "ok", "401") as server:
        assert caption(root, server, "caption.concurrency=1") == 2
        assert 2 <= captions(root).count(CAPTION) == len(server.bodies) - 1
        assert "answers 401" in capsys.readouterr().err
        assert caption(root, server) == 0
        assert len(server.bodies) == CLIPS + 1
        assert captions(root) == [CAPTION] * CLIPS


def test_the_key_is_only_in_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("COGVX_LOG", "debug")
    with serving("400", *["401"] * 6) as server:
        for _ in range(2):
            assert caption(root, server, "caption.key_variable=MY_KEY", "caption.concurrency=1") == 2
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    output = "".join(capsys.readouterr())
    assert "the key in MY_KEY is refused" in output
    assert KEY not in output
    assert not [path for path in root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    write(root, {})
    with serving("302") as server:
        assert caption(root, server, "caption.key_variable=MY_KEY") == 2
        assert len(server.bodies) == 1, "a redirection would take the key elsewhere"


def test_what_makes_every_request_fail_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(server: object, *more: str) -> str:
        assert caption(root, server, "caption.concurrency=1", "caption.retries=0", *more) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    with serving(models=["other"]) as server:
        assert f"{server.url} has no caption.model=tiny; it has other" in refused(server)
        assert not server.bodies
    assert "cannot be reached (" in refused(server)
    assert "start it (vllm serve tiny), or set caption.url" in refused(server)
    with serving(*["401"] * 9, models=None) as server:
        assert "set OPENAI_API_KEY in the environment to your key" in refused(server)
    with serving(*["404"] * 9, models=None) as server:
        assert "answers 404" in refused(server)
    with serving(*["400"] * 9) as server:
        assert "refuses every request (400: error 400" in refused(server)
        assert len(server.bodies) in (3, 4)
    assert captions(root) == [None] * CLIPS
    (root / "dataset.jsonl").unlink()
    assert "dataset.jsonl does not exist" in refused(server)
    assert prepare(["mode=caption", "data=jsonl", f"data.root={root}", "caption.url=localhost:8000"]) == 2
    assert "caption.url" in capsys.readouterr().err


def test_requests_are_concurrent_and_limited(root: Path) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def with_another(body: dict[str, Any]) -> str:
        """Answers two requests at once: one alone would wait for nothing."""
        with suppress(threading.BrokenBarrierError):
            meeting.wait()
        return CAPTION

    with serving(caption=with_another) as server:
        assert caption(root, server, "caption.concurrency=4", "data.decode_workers=2") == 0
        assert server.most_at_once > 1
    write(root, *({"start": 0.02 * index} for index in range(3)))
    with serving() as server:
        assert caption(root, server, "caption.concurrency=1", "caption.frames=4") == 0
        assert (server.most_at_once, len(server.bodies)) == (1, 3)
    limit = RateLimit(1200)
    import time

    started = time.monotonic()
    for _ in range(4):
        limit.wait()
    assert 0.15 <= time.monotonic() - started < 2
    write(root, *({"start": 0.04} for _ in range(3)), {})
    with serving() as server:
        assert caption(root, server, "caption.requests_per_minute=240", "caption.frames=1") == 0
        assert np.diff(server.times).min() > 0.2


def test_processes_share_the_captions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, *({"start": index / 100, "end": 1.0} for index in range(20)))
    with serving() as server:
        for rank, done in ((1, 8), (0, 20)):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            assert caption(root, server) == 0
            assert captions(root).count(CAPTION) == done
        assert len(server.bodies) == 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_a_local_model_writes_captions(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["caption.backend=transformers", f"caption.model={model}", "caption.max_tokens=12", "caption.frames=2"]
    settings.append("caption.temperature=0")
    assert caption(root, None, *settings, "caption.batch_size=3") == 0
    written = captions(root)
    assert all(text and set(text.lower().split()) <= set(WORDS) for text in written), written
    write(root, *({} for _ in range(CLIPS)))
    assert (
        caption(root, None, *settings, "caption.temperature=0", "caption.batch_size=1", "caption.overwrite=true") == 0
    )
    assert captions(root) == written, "from the journal"
    blind = save_model(root / "blind", vision=False)
    for unusable in (blind, root / "missing"):
        assert caption(root, None, *settings, f"caption.model={unusable}", "caption.overwrite=true") == 2
        error = capsys.readouterr().err
        assert "cannot be loaded as a vision-language model" in error
        assert error.count("\n") == 1
    assert captions(root) == written


def test_vllm_is_asked_the_same_as_a_server(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Without a GPU: the requests, not vLLM itself."""
    assert caption(root, None, "caption.backend=vllm") == 2
    assert "pip install vllm" in capsys.readouterr().err
    seen: list[object] = []

    class LLM:
        def __init__(self, **options: object):
            seen.append(options)

        def chat(self, requests, options, use_tqdm):
            seen.append((requests, options))
            return [SimpleNamespace(outputs=[SimpleNamespace(text=CAPTION)]) for _ in requests]

    module = SimpleNamespace(LLM=LLM, SamplingParams=lambda **options: options, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm", module)
    settings = ["caption.frames=2", "caption.batch_size=4", "caption.tensor_parallel=2", "caption.temperature=0.5"]
    assert caption(root, None, "caption.backend=vllm", *settings) == 0
    assert captions(root) == [CAPTION] * CLIPS
    assert seen[0] == {"model": "tiny", "tensor_parallel_size": 2, "limit_mm_per_prompt": {"image": 2}}
    requests, options = seen[1]
    assert options == {"temperature": 0.5, "max_tokens": 400}
    with serving() as server:
        assert caption(root, server, *settings, "caption.overwrite=true", "caption.max_tokens=401") == 0
        asked = [body["messages"] for body in server.bodies]
    assert sorted(map(json.dumps, asked)) == sorted(map(json.dumps, requests))
