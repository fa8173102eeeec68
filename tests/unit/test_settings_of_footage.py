"""Settings of the modes of `prepare` arrive where they take effect. No video is read, and no model is asked."""

import io
import json
import urllib.error
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from cogvx_exp import prepare as prepare_module
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.config.typed import typed
from cogvx_exp.footage.caption import backends, server
from cogvx_exp.footage.caption import caption as captions
from cogvx_exp.footage.caption.request import first_request
from cogvx_exp.footage.filter import filter as filtering
from cogvx_exp.footage.filter.decide import decide
from cogvx_exp.footage.split import clips, files, scan, split
from cogvx_exp.launch import preparation
from tests.replaced import ReachedError, replaced

ANSWER = {"choices": [{"message": {"content": "a circle"}}]}
CAPTION = {
    **{"model": "mine", "url": "http://there/v2", "key_variable": "MY_KEY", "instruction": "'say it'", "frames": 3},
    **{"height": 64, "temperature": 0.7, "max_tokens": 11, "concurrency": 2, "requests_per_minute": 30, "timeout": 9},
    **{"retries": 2, "backoff": 3, "trigger": "TOY", "examples": "[one]", "batch_size": 6, "tensor_parallel": 2},
}


@pytest.fixture(scope="module")
def footage_job() -> Any:
    """`prepare` with settings in `mode`'s section, composed once."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("prepare", ["model=tiny-5b", "data=jsonl", "data.root=x", "device=cpu"]), PrepareJob)

    def edited(mode: str, **settings: Any) -> PrepareJob:
        values = job.model_dump() | {"mode": mode}
        values[mode] |= settings
        return PrepareJob.model_validate(values)

    return edited


def caption_job(footage_job: Any, **more: Any) -> PrepareJob:
    values = CAPTION | {"instruction": "say it", "examples": ["one"]} | more
    return footage_job("caption", **values)  # type: ignore[no-any-return]


def test_a_server_is_asked_as_set(footage_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = caption_job(footage_job).caption
    opener, limits = MagicMock(), replaced(monkeypatch, server, "RateLimit")["RateLimit"]
    opener.open.return_value.__enter__.return_value.read.return_value = json.dumps(ANSWER)
    monkeypatch.setattr(server.urllib.request, "build_opener", lambda *handlers: opener)
    monkeypatch.setenv("MY_KEY", "secret")
    backend = server.ServerBackend(settings)
    assert backend.answer([[{"role": "user", "content": "?"}]]) == ["a circle"]
    (request,), timeout = opener.open.call_args.args, opener.open.call_args.kwargs["timeout"]
    assert (request.full_url, timeout, backend.concurrency) == ("http://there/v2/chat/completions", 9, 2)
    assert request.headers["Authorization"] == "Bearer secret"
    body = json.loads(request.data)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("mine", 0.7, 11)
    limits.assert_called_once_with(30)

    waits: list[float] = []
    monkeypatch.setattr(server.time, "sleep", waits.append)
    opener.open.side_effect = lambda *given, **more: _fail()
    backend.answer([[{"role": "user", "content": "?"}]])
    assert len(waits) == 2
    assert 3 * 0.75 <= waits[0] <= 3 * 1.25


def _fail() -> None:
    raise urllib.error.HTTPError("http://there", 503, "busy", Message(), io.BytesIO(b""))


def test_a_request_has_what_is_set(footage_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = caption_job(footage_job)
    (message,) = first_request([], job.caption)
    text = message["content"][-1]["text"]
    assert text.startswith("say it")
    assert text.endswith("one")
    stage: Any = captions.CaptionStage.__new__(captions.CaptionStage)
    stage._job, decoding = job, MagicMock()
    tasks: list[Any] = []
    decoding.map.side_effect = lambda function, given: tasks.extend(given) or ["frames"] * len(tasks)
    monkeypatch.setattr(captions, "first_request", lambda frames, settings: frames)
    list(stage._requests([SimpleNamespace(path="a.mp4", window=None)], decoding))
    assert tasks == [("a.mp4", None, 3, 64)]
    monkeypatch.setattr("cogvx_exp.footage.caption.tokens.token_counter", MagicMock())
    assert stage._writer(MagicMock())._prefix == "TOY "


@pytest.mark.parametrize("overwrite", [True, False])
def test_captions_are_replaced_if_asked_to(footage_job: Any, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    mocks = replaced(monkeypatch, captions, "clip_rows")
    stage: Any = captions.CaptionStage.__new__(captions.CaptionStage)
    stage._job = caption_job(footage_job, overwrite=overwrite)
    stage._wanted([{stage._job.data.caption_column: "a circle"}, {}])
    assert mocks["clip_rows"].call_args.args[1] == [overwrite, True]


def test_the_backend_is_the_one_that_is_set(footage_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, backends, "TransformersBackend", "VllmBackend")
    mocks |= replaced(monkeypatch, server, "ServerBackend")
    names = {"openai": "ServerBackend", "transformers": "TransformersBackend", "vllm": "VllmBackend"}
    for name, built in names.items():
        assert (
            backends.choose_backend(caption_job(footage_job, backend=name).caption, "cpu") is mocks[built].return_value
        )
    monkeypatch.undo()
    monkeypatch.setattr("transformers.pipeline", MagicMock())
    assert backends.TransformersBackend(caption_job(footage_job).caption, "cpu").batch_size == 6
    vllm = MagicMock()
    monkeypatch.setitem(__import__("sys").modules, "vllm", vllm)
    assert backends.VllmBackend(caption_job(footage_job).caption).batch_size == 6
    assert vllm.LLM.call_args.kwargs["tensor_parallel_size"] == 2


def test_clips_are_kept_within_the_limits(footage_job: Any) -> None:
    scores = {"sharpness": 20.0, "exposure": 0.5, "motion": 5.0, "cuts": 1, "text": 0.1, "hash": "0"}
    wide = {"sharpness": None, "exposure": None, "motion": None, "cuts": None, "text": None, "duplicates": None}
    strict = {"sharpness": 21, "exposure": [0.6, 1], "motion": [6, 9], "cuts": 0, "text": 0.05}

    def reason(**limits: Any) -> str:
        (record,) = decide([{}], {0: scores}, footage_job("filter", **wide | limits).filter)
        return str(record.get("reason", ""))

    assert reason() == ""
    for name, limit in strict.items():
        assert reason(**{name: limit}).startswith(name)
    near = [scores, scores | {"hash": "f"}]
    kept = [
        sum("reason" not in record for record in decide([{}, {}], dict(enumerate(near)), settings.filter))
        for settings in (footage_job("filter", **wide | {"duplicates": bits}) for bits in (3, 4))
    ]
    assert kept == [2, 1]


def test_pools_have_the_time_that_is_set(footage_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pools = replaced(monkeypatch, filtering, "DecodingPool")["DecodingPool"]
    pools.side_effect = ReachedError
    stage: Any = filtering.FilterStage.__new__(filtering.FilterStage)
    stage._job = footage_job("filter", timeout=33, text=0.1)
    assert len(stage._needed()) == 2
    with pytest.raises(ReachedError):
        stage._measure(MagicMock(), [], {}, MagicMock())
    assert pools.call_args.args[1:] == (33, "filter.timeout")
    pools = replaced(monkeypatch, split, "DecodingPool")["DecodingPool"]
    pools.side_effect = ReachedError
    monkeypatch.setattr(split, "_find_videos", lambda job, root: (["a.mp4"], [], {}))
    monkeypatch.setattr(split, "content_hashes", lambda videos, cache: dict.fromkeys(videos, "0"))
    job = footage_job("split", timeout=44, dataset_file="mine.jsonl")
    job = job.model_copy(update={"data": job.data.model_copy(update={"root": str(tmp_path)}), "cache_dir": tmp_path})
    splitting: Any = split.SplitStage(job)
    assert splitting._manifest == tmp_path / "mine.jsonl"
    with pytest.raises(ReachedError):
        splitting.work(0, 1)
    assert pools.call_args.args[1:] == (44, "split.timeout")


def test_scenes_are_split_as_set(footage_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def settings(**given: Any) -> Any:
        return footage_job("split", **given).split

    from scenedetect import detectors

    made = replaced(monkeypatch, detectors, "HashDetector")["HashDetector"]
    scan._detector(settings(detector="hash", threshold=0.3))
    assert made.call_args.kwargs["threshold"] == 0.3

    timeline: Any = SimpleNamespace(starts=np.arange(100) / 10, duration=10.0)
    found: Any = SimpleNamespace(timeline=timeline, cuts=[], brightness=np.full(100, 50.0))
    found.peak, found.change = np.full(100, 60.0), np.full(100, 5.0)
    found.brightness[50] = 100.0
    usual = {"seconds": [1.0, 3.0], "black": 0, "flash": 0, "still": 0, "crop_bars": False}

    def dropped(**given: Any) -> set[str]:
        return set(clips.find_clips(found, settings(**usual | given)).dropped) - {"too short"}

    assert dropped() == set()
    assert dropped(black=70) == {"black"}
    assert dropped(flash=30) == {"flash"}
    assert dropped(still=9) == {"still"}
    assert len(clips.find_clips(found, settings(**usual)).clips) == 4
    bars = replaced(monkeypatch, clips, "_without_bars")["_without_bars"]
    bars.return_value = (1, 2, 3, 4)
    cropped = clips.find_clips(found, settings(**usual | {"crop_bars": True})).clips
    assert cropped[0]["crop"] == [1, 2, 3, 4]
    assert "crop" not in clips.find_clips(found, settings(**usual)).clips[0]

    mocks = replaced(monkeypatch, split, "scan_video", "find_clips", "write_clip")
    mocks["find_clips"].return_value = SimpleNamespace(clips=[{"start": 0.0, "end": 1.0}], dropped={})
    for write in (False, True):
        split.split_video(str(tmp_path / "a.mp4"), str(tmp_path), settings(write=write))
        assert mocks["write_clip"].called == write
    encode = replaced(monkeypatch, files, "_encode", "_starts_at_keyframe")
    encode["_starts_at_keyframe"].return_value = False
    row = files.write_clip({"video": "a.mp4", "start": 0, "end": 1}, 1, tmp_path, timeline, settings(clips_dir="mine"))
    assert row["video"] == "mine/a.mp4-0001.mp4"


def test_prepare_does_what_its_mode_says(footage_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, preparation, "encode", "inspect", "make_dataset", "review")
    for mode in ("encode", "inspect", "review", "filter"):
        job = footage_job("filter").model_copy(update={"mode": mode})
        prepare_module.run(job, [])
    assert [mock.call_count for mock in mocks.values()] == [1, 1, 1, 1]
