"""Clips made to fail each test fail that one; nothing is deleted, and nothing is measured twice."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cogvx_exp.config.schema import Filter
from cogvx_exp.footage.filter.decide import decide
from cogvx_exp.footage.filter.duplicates import near_duplicates
from cogvx_exp.footage.filter.scores import score_clip
from cogvx_exp.media.window import Window
from tests.footage import HEIGHT, RATE, PoolHere, film, rows, scene
from tests.prepare_command import prepare
from tests.unit.test_split import SPLIT

LIMITS = Filter(sharpness=10, exposure=[0.08, 0.92], motion=[0.5, 300], cuts=0, text=None, duplicates=8, timeout=60)
COUNT = 30


def blurred(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 5) for frame in frames])


CLIPS = {
    "good": scene(1, COUNT),
    "blurred": blurred(scene(2, COUNT)),
    "dark": (scene(3, COUNT) * 0.1).astype(np.uint8),
    "bright": (255 - scene(4, COUNT) * 0.05).astype(np.uint8),
    "still": np.repeat(scene(5, 1), COUNT, axis=0),
    "two scenes": np.concatenate([scene(6, COUNT // 2), scene(7, COUNT // 2)]),
    "copy": np.clip(scene(1, COUNT).astype(int) + 8, 0, 255).astype(np.uint8),
}
"""Each but the first fails one test."""


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All clips in one video, and a manifest."""
    root = tmp_path_factory.mktemp("footage")
    film(root / "film.mp4", *CLIPS.values(), options=("-crf", "4"))
    return root


def windows() -> list[Window]:
    return [Window(index * COUNT / RATE, (index + 1) * COUNT / RATE) for index in range(len(CLIPS))]


@pytest.fixture(scope="module")
def scores(footage: Path) -> dict[str, dict]:
    path = str(footage / "film.mp4")
    return {name: score_clip(path, window, SPLIT) for name, window in zip(CLIPS, windows(), strict=True)}


def reasons(scores: dict[str, dict], **changes: object) -> dict[str, str]:
    limits = LIMITS.model_copy(update=changes)
    decided = decide([{"name": name} for name in scores], dict(enumerate(scores.values())), limits)
    return {row["name"]: row["reason"].partition(" ")[0] for row in decided if row.get("keep") is False}


def test_clips_fail_the_test_they_are_made_to_fail(scores: dict[str, dict]) -> None:
    limits = {"sharpness": None, "exposure": [0.15, 0.9]}
    failed = {"dark": "exposure", "bright": "exposure", "still": "motion", "two scenes": "cuts"}
    assert reasons(scores, **limits) == failed | {"copy": "near-duplicate"}
    sharp = reasons(scores, sharpness=scores["blurred"]["sharpness"] + 0.1)
    assert sharp["blurred"] == "sharpness"
    assert "good" not in sharp
    for name in ("exposure", "motion", "cuts"):
        assert name not in reasons(scores, **limits | {name: None}).values(), "null: the score does not matter"
    assert "copy" not in reasons(scores, **limits | {"duplicates": None})


def test_motion_is_the_speed_of_the_picture(tmp_path: Path) -> None:
    for speed in (1, 3):
        path = film(tmp_path / f"{speed}.mp4", scene(1, 25, speed=speed), options=("-crf", "4"))
        found = score_clip(str(path), Window(), SPLIT)["motion"]
        assert found == pytest.approx(100 * speed * RATE / HEIGHT, rel=0.2), "percent of the height per second"


def test_near_duplicates_are_found_without_comparing_all() -> None:
    random = np.random.default_rng(0)
    hashes = [int.from_bytes(random.bytes(24), "big") for _ in range(20_000)]
    near = hashes[70] ^ sum(1 << int(bit) for bit in random.choice(192, 11, replace=False))
    far = hashes[71] ^ sum(1 << int(bit) for bit in random.choice(192, 12, replace=False))
    started = time.perf_counter()
    found = near_duplicates(enumerate([*hashes, near, far, hashes[0], near]), 11)
    assert found == {20_000: 70, 20_002: 0, 20_003: 70}
    assert time.perf_counter() - started < 10
    assert near_duplicates([(0, hashes[70]), (1, near)], 10) == {}


def test_the_manifest_gets_scores_and_reasons(footage: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = footage / "dataset.jsonl"
    lines = [{"video": "film.mp4", "start": window.start, "end": window.end} for window in windows()]
    lines[0] |= {"caption": "mine", "other": [1]}
    lines[3] |= {"keep": False}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ["mode=filter", "data=jsonl", f"data.root={footage}", "cache_dir=cache"]
    assert prepare([*settings, "filter.exposure=[0.15,0.99]", "filter.sharpness=null"]) == 0
    first = rows(manifest)
    assert [{key: row.get(key) for key in line} for row, line in zip(first, lines, strict=True)] == lines
    assert first[2]["reason"].endswith("is below 0.15")
    assert "reason" not in first[3], "excluded by hand"
    assert first[3]["scores"]["exposure"] > 0.9
    assert first[6]["reason"] == "near-duplicate of row 1"
    assert first[0].get("keep") is None

    def nothing_left(_: object, tasks: object) -> list[object]:
        assert list(tasks) == []  # type: ignore[call-overload]
        return []

    monkeypatch.setattr("cogvx_exp.footage.filter.filter.DecodingPool.map", lambda _, *work: nothing_left(*work))
    everything = [f"filter.{name}=null" for name in ("sharpness", "exposure", "motion", "cuts", "duplicates")]
    assert prepare([*settings, *everything]) == 0
    assert [index for index, row in enumerate(rows(manifest)) if row.get("keep") is False] == [3]
    assert not [row for row in rows(manifest) if "reason" in row]


def test_processes_share_the_work(footage: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvx_exp.footage.filter.filter.DecodingPool", PoolHere)
    count = 20
    manifest = in_tmp / "dataset.jsonl"
    (in_tmp / "film.mp4").symlink_to(footage / "film.mp4")
    lines = [{"video": "film.mp4", "start": index / RATE, "end": (index + 2) / RATE} for index in range(count)]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ["mode=filter", "data=jsonl", f"data.root={in_tmp}", "data.allow_outside_root=true", "cache_dir=cache"]
    settings.append("filter.timeout=44")
    scored = []
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert prepare(settings) == 0
        scored.append(sum("scores" in row for row in rows(manifest)))
    assert scored == [8, count]
    assert PoolHere.given[1:] == (44, "filter.timeout")


def test_bad_input_is_refused(in_tmp: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvx_exp.footage.filter.filter.DecodingPool", PoolHere)

    def refused(*settings: str) -> str:
        assert prepare(["mode=filter", "data=jsonl", f"data.root={in_tmp}", "cache_dir=cache", *settings]) == 2
        return capsys.readouterr().err

    assert "dataset.jsonl does not exist; check data.root and data.dataset_file" in refused()
    (in_tmp / "dataset.jsonl").write_text('{"video": "a.mp4"}\nnonsense\n')
    assert "dataset.jsonl, line 2: is not a JSON object; fix or remove the line" in refused()
    assert "mode=filter needs a manifest in JSON Lines" in refused("data=csv")
    assert "the minimum comes first" in refused("filter.motion=[2,1]")
    (in_tmp / "dataset.jsonl").write_text('{"video": "a.mp4"}\n{"video": "b.mp4", "start": "x"}\n{}\n')
    (in_tmp / "b.mp4").write_text("x")
    assert "3 clips could not be scored" in refused()
    table = (in_tmp / "cache" / "faults.csv").read_text()
    assert all(words in table for words in ("does not exist", "has start: 'x'", "has no video"))
    assert prepare(["mode=filter", "data=jsonl", f"data.root={in_tmp}", "cache_dir=cache", "data.on_error=skip"]) == 0
