"""Text drawn on clips is found and measured, once, and only if it has a limit."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cogvx_exp.core.errors import UserError
from cogvx_exp.footage.filter import text as of_text
from cogvx_exp.footage.filter.text import text_share
from cogvx_exp.media.errors import ClipError
from cogvx_exp.media.window import Window
from tests.footage import HEIGHT, RATE, WIDTH, PoolHere, film, rows, scene
from tests.prepare_command import prepare

COUNT = 16
TEXT = "Hello there"
OTHERS = [f"filter.{name}=null" for name in ("sharpness", "exposure", "motion", "cuts", "duplicates")]

needs_detector = pytest.mark.skipif(find_spec("rapidocr_onnxruntime") is None, reason="needs the extra footage-text")


def titled(frames: np.ndarray, size: int, place: tuple[int, int], which: range) -> np.ndarray:
    """The frames with text on some of them."""
    found = frames.copy()
    for index in which:
        picture = Image.fromarray(frames[index])
        font = ImageFont.load_default(size)
        ImageDraw.Draw(picture).text(place, TEXT, "white", font, stroke_width=1, stroke_fill="black")
        found[index] = np.asarray(picture)
    return found


def area(size: int) -> float:
    """Share of the picture that the text covers."""
    left, top, right, bottom = ImageFont.load_default(size).getbbox(TEXT, stroke_width=1)
    return (right - left) * (bottom - top) / (WIDTH * HEIGHT)


CLIPS = {
    "clean": scene(7, COUNT),  # one of its blurred shapes is taken for text if it is enlarged more
    "subtitle": titled(scene(2, COUNT), 14, (20, 75), range(COUNT)),
    "title for a moment": titled(scene(3, COUNT), 26, (10, 30), range(6, 10)),
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All clips in one video."""
    return film(tmp_path_factory.mktemp("footage") / "film.mp4", *CLIPS.values(), options=("-crf", "4"))


def window(index: int) -> Window:
    return Window(index * COUNT / RATE, (index + 1) * COUNT / RATE)


@pytest.fixture
def manifest(footage: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("cogvx_exp.footage.filter.filter.DecodingPool", PoolHere)
    windows = [window(index) for index in range(len(CLIPS))]
    lines = [{"video": "film.mp4", "start": one.start, "end": one.end} for one in windows]
    path = in_tmp / "dataset.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (in_tmp / "film.mp4").write_bytes(footage.read_bytes())
    return path


def run(manifest: Path, *settings: str) -> int:
    return prepare(["mode=filter", "data=jsonl", f"data.root={manifest.parent}", "cache_dir=cache", *OTHERS, *settings])


def excluded(manifest: Path) -> list[int]:
    return [index for index, row in enumerate(rows(manifest)) if row.get("keep") is False]


def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    of_text._detector.cache_clear()


@needs_detector
def test_the_score_is_the_largest_area_that_text_covers(footage: Path) -> None:
    clean, subtitle, title = (text_share(str(footage), window(index))["text"] for index in range(3))
    assert clean == 0
    assert subtitle == pytest.approx(area(14), rel=0.4)
    assert title == pytest.approx(area(26), rel=0.4), "not the mean of the frames"


@needs_detector
def test_clips_with_text_are_excluded_and_measured_once(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest) == 0
    assert excluded(manifest) == [], "off by default"
    assert not any("text" in row["scores"] for row in rows(manifest))

    monkeypatch.setattr("cogvx_exp.footage.filter.filter.score_clip", None)
    assert run(manifest, "filter.text=0.02") == 0, "the other scores are in the cache"
    assert excluded(manifest) == [1, 2]
    assert "excluded: 2 text" in capsys.readouterr().out
    measured = rows(manifest)
    assert measured[1]["reason"] == f"text {measured[1]['scores']['text']:g} is above 0.02"

    monkeypatch.setattr("cogvx_exp.footage.filter.filter.text_share", None)
    assert run(manifest, f"filter.text={measured[1]['scores']['text']}") == 0
    assert excluded(manifest) == [2]
    assert run(manifest) == 0
    assert excluded(manifest) == []
    assert rows(manifest)[2]["scores"] == measured[2]["scores"], "what is known is shown"


def test_a_clip_that_cannot_be_measured_is_reported_and_left_as_it_is(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manifest.open("a") as file:
        file.write('{"video": "film.mp4", "start": 1, "end": 100}\n')

    def measure(path: str, window: Window) -> dict[str, float]:
        assert window.end != 100, "its other scores failed already"
        if window.start:
            return {"text": 0.5}
        raise ClipError("is damaged", "copy it again")

    monkeypatch.setattr("cogvx_exp.footage.filter.filter.text_share", measure)
    monkeypatch.setattr("cogvx_exp.config.rules.footage.find_spec", lambda _: True)
    assert run(manifest, "filter.text=0.02") == 2
    faults = Path("cache/faults.csv").read_text()
    assert "is damaged" in faults
    assert "its end at 100 s is after" in faults
    assert ["scores" in row for row in rows(manifest)] == [False, True, True, False]
    assert excluded(manifest) == [1, 2]


def test_a_missing_detector_is_named_if_it_is_needed(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], footage: Path
) -> None:
    no_detector(monkeypatch)
    assert run(manifest, "filter.text=0.02") == 2
    line = "filter.text=0.02  needs rapidocr_onnxruntime: pip install -e '.[footage-text]' -c constraints.txt"
    assert line in capsys.readouterr().err
    with pytest.raises(UserError, match=r"filter\.text cannot import rapidocr_onnxruntime \(.*\); set filter"):
        text_share(str(footage), window(0))
    assert run(manifest) == 0
