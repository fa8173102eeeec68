"""From raw footage to training: clips that are parts of long videos."""

import json
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from cogvx_exp.core.files import file_hash
from tests.caption_server import serving
from tests.entry import prepare, train
from tests.footage import film, frame_ranges, rows, scene
from tests.numbered import ENCODERS, make
from tests.pages import CHROMIUM, browser
from tests.vision_language import WORDS, save_model


def entries(cache: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in (cache / "encoded").rglob("*.safetensors")}


def write_rows(root: Path, *rows: dict[str, object]) -> None:
    (root / "dataset.jsonl").write_text("".join(json.dumps({"video": "long.mp4"} | row) + "\n" for row in rows))


def test_windows_are_cached_trained_on_and_inspected(in_tmp: Path, capsys) -> None:
    make(in_tmp / "long.mp4", *ENCODERS["h264"])
    settings = ["data=jsonl", f"data.root={in_tmp}", "cache_dir=cache"]
    rows = [{"caption": "one", "end": 0.6}, {"caption": "two", "start": 0.6, "end": 1.2, "crop": [0, 0, 64, 64]}]
    write_rows(in_tmp, *rows, {"caption": "no", "keep": False, "start": 1.2})
    assert prepare(settings) == 0
    first = entries(in_tmp / "cache")
    assert "2 clips" in (printed := capsys.readouterr().out)
    assert "1 excluded by keep: false" in printed
    write_rows(in_tmp, *rows, {"caption": "two", "start": 1.0})
    assert prepare(settings) == 0
    second = entries(in_tmp / "cache")
    assert len(second) == len(first) + 1, "one more window; its caption is there"
    assert second.items() >= first.items()
    assert train([*settings, "steps=2", "validation=none", "run_dir=run"]) == 0
    assert entries(in_tmp / "cache") == second
    assert prepare([*settings, "mode=inspect"]) == 0
    page = (in_tmp / "outputs" / "inspect" / "index.html").read_text()
    assert page.count("<img") == 6
    assert "t=0.6,1.2" in page
    write_rows(in_tmp, {"caption": "one", "end": 100})
    assert prepare(settings) == 2
    assert "its end at 100 s is after that of the video (1.6 s)" in (in_tmp / "cache" / "faults.csv").read_text()


def test_inspect_shows_the_scores_and_the_clips_near_the_limits(in_tmp: Path) -> None:
    make(in_tmp / "long.mp4", *ENCODERS["h264"])
    same = {"exposure": 0.5, "motion": 1.0, "cuts": 0}
    scores = [{"sharpness": 100.0 * index, **same, "text": index / 64} for index in range(8)]
    rows = [{"start": index / 25, "end": (index + 10) / 25, "scores": one} for index, one in enumerate(scores)]
    write_rows(in_tmp, *({"caption": str(index)} | row for index, row in enumerate(rows)))
    settings = ["data=jsonl", f"data.root={in_tmp}", "cache_dir=cache", "mode=inspect", "inspect.clips=1"]
    assert prepare([*settings, "filter.sharpness=350"]) == 0
    page = (in_tmp / "outputs" / "inspect" / "index.html").read_text()
    shown = [int(row) for row in re.findall(r">row (\d+): \d00<", page)]
    assert shown == [4, 3, 2, 5, 6, 7], "the nearest first"
    assert page.count("<rect") == 5 * 40
    assert "up to 0<" in page, "cuts have a maximum"
    assert "above 0<" not in page
    assert page.count("from 350") == 1
    assert "up to 0.05" not in page
    assert prepare([*settings, "filter.sharpness=null", "filter.text=0.05"]) == 0
    page = (in_tmp / "outputs" / "inspect" / "index.html").read_text()
    assert "from 350" not in page
    assert "up to 0.05" in page
    assert re.findall(r">row (\d+): 0\.[01]\d*<", page) == ["4", "3", "2", "5", "6", "7"], "text has a maximum"


def test_the_whole_way(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/footage.md, on a film of three scenes, one of them twice."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    film(in_tmp / "footage" / "film.mp4", scene(1, 30), scene(2, 40), scene(1, 30))
    folder, place = "data.root=footage", ["data=jsonl", "data.root=footage"]
    manifest = in_tmp / "footage" / "dataset.jsonl"
    assert prepare(["mode=split", "data=folder", folder, "split.seconds=[0.5,10]"]) == 0
    assert list(frame_ranges(manifest)) == [(0, 30), (30, 70), (70, 100)]
    assert prepare(["data=jsonl", folder]) == 2
    assert "has no caption" in (in_tmp / "outputs" / "cache" / "faults.csv").read_text()
    assert prepare(["mode=filter", *place, "distributed=ddp", "distributed.processes=2"]) == 0
    assert [row.get("reason") for row in rows(manifest)] == [None, None, "near-duplicate of row 1"]
    long, short = "A ball rolls. " * 40, "A ball rolls. It stops."
    with serving(caption=lambda body: long if len(body["messages"]) == 1 else short) as server:
        caption = ["mode=caption", *place, "caption.model=tiny", f"caption.url={server.url}"]
        assert prepare(caption) == 0
        assert len(server.bodies) == 4, "too long for the tokenizer of the model, so asked again"
    assert [row.get("caption") for row in rows(manifest)] == [short, short, None]
    assert prepare(["mode=inspect", *place]) == 0
    assert train([*place, "steps=1", "validation=none"]) == 0


@pytest.mark.extended
def test_killed_it_asks_nothing_twice(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make(in_tmp / "long.mp4", *ENCODERS["h264"])
    write_rows(in_tmp, *({"start": 0.2 * index, "end": 0.2 * (index + 1)} for index in range(6)))

    def slowly(body: dict) -> str:
        time.sleep(0.3)
        return "A ball rolls."

    with serving(caption=slowly) as server:
        settings = ["mode=caption", "data=jsonl", f"data.root={in_tmp}", "cache_dir=cache", "caption.model=tiny"]
        settings += [f"caption.url={server.url}", "caption.concurrency=1"]
        command = [sys.executable, "-m", "cogvx_exp.prepare", "model=tiny-5b", *settings]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while len(server.bodies) < 3 and process.poll() is None:
                time.sleep(0.02)
            process.kill()
        before = [json.dumps(body["messages"]) for body in server.bodies]
        assert prepare(settings) == 0
        after = [json.dumps(body["messages"]) for body in server.bodies[len(before) :]]
    assert len(before) == 3
    assert set(before[:2]).isdisjoint(after), "the third was under way"
    assert len(set(before + after)) == 6
    assert all(row["caption"] == "A ball rolls." for row in rows(in_tmp / "dataset.jsonl"))


@pytest.mark.extended
@pytest.mark.skipif(find_spec("fastapi") is None, reason="needs transformers[serving]")
def test_transformers_serve_writes_captions(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    film(in_tmp / "film.mp4", scene(1, 30))
    model = save_model(in_tmp / "model")
    (in_tmp / "dataset.jsonl").write_text('{"video": "film.mp4", "end": 1.0}\n')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    with subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            settings = [f"caption.url=http://127.0.0.1:{port}/v1", f"caption.model={model}", "caption.max_tokens=8"]
            assert prepare(["mode=caption", "data=jsonl", f"data.root={in_tmp}", "cache_dir=cache", *settings]) == 0
        finally:
            server.terminate()
    (row,) = rows(in_tmp / "dataset.jsonl")
    assert set(row["caption"].lower().split()) <= set(WORDS)


def _wait_for(port: int) -> None:
    """Until a server accepts connections."""
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise AssertionError("the server did not start")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_captions_are_corrected_on_a_page(in_tmp: Path) -> None:
    make(in_tmp / "long.mp4", *ENCODERS["h264"])
    hostile = "</script><script>document.title = 'taken'</script> \u2028 & \"x\""
    write_rows(
        in_tmp,
        {"caption": hostile, "start": 0.4, "end": 1.0, "number": 12345678901234567890},
        {"caption": ["one", "two"], "keep": False, "reason": "motion 0 is below 0.5", "scores": {"motion": 0.0}},
        {"other": 1.0, "keep": False, "reason": "motion"},
        {"caption": "beyond the page", "end": 1.0},
    )
    manifest = in_tmp / "dataset.jsonl"
    before = [json.loads(line) for line in manifest.read_text().splitlines()]
    settings = ["mode=review", "data=jsonl", f"data.root={in_tmp}", "cache_dir=cache"]
    assert prepare([*settings, "review.clips=3"]) == 0
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(f"file://{in_tmp}/outputs/review/index.html")
        assert page.title() == "dataset.jsonl"
        assert page.locator("img").count() == 3
        assert page.get_attribute(".card a", "href") == "../../long.mp4#t=0.4,1"
        assert page.input_value("textarea >> nth=0") == hostile
        assert page.inner_text("#changes") == "no changes"
        page.fill("textarea >> nth=1", "three\n\nfour")
        page.check("input >> nth=1")
        page.fill("textarea >> nth=2", " new ")
        page.uncheck("input >> nth=0")
        assert page.inner_text("#changes") == "3 rows changed"
        page.check("input >> nth=0")
        assert page.inner_text("#changes") == "2 rows changed"
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.suggested_filename == "dataset.jsonl"
        download.value.save_as(manifest)
    after = [json.loads(line) for line in manifest.read_text().removesuffix("\n").split("\n")]
    assert after[1] == {"video": "long.mp4", "caption": ["three", "four"], "scores": {"motion": 0.0}}
    assert after[2] == before[2] | {"caption": "new"}
    assert [after[0], after[3]] == [before[0], before[3]]
    assert prepare([*settings, "review.first=4", "review.output_dir=elsewhere"]) == 0
    assert re.findall(r'data-row="(\d+)"', (in_tmp / "elsewhere" / "index.html").read_text()) == ["3"]
    assert prepare([*settings, "review.first=5"]) == 2
