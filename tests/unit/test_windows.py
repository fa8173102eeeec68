"""Clips that are parts of longer videos: the same frames as those of the whole video, whatever the file."""

import json
from pathlib import Path

import numpy as np
import pytest

from cogvx_exp.config.schema.data import Source
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.decoding import read_clip
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.data.forms.sources import read_source
from cogvx_exp.data.frames import FrameChoice
from cogvx_exp.data.issues import DataIssue
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.data.start_image import frame_of, open_image
from cogvx_exp.media import readers
from cogvx_exp.media.errors import ClipError
from cogvx_exp.media.video import open_video, probe_windows
from cogvx_exp.media.window import Window, WindowReader, parse_fragment
from tests.numbered import ENCODERS, FRAMES, HEIGHT, VARIABLE_RATE, WIDTH, make, number

KINDS = [
    ("h264", "mp4"),
    ("h264-open", "mp4"),
    ("h264-refresh", "mp4"),
    ("hevc", "mp4"),
    ("hevc-open", "mov"),
    ("vp9", "webm"),
    ("mpeg4", "avi"),
    ("h264", "ts"),
]


def window_of(starts: np.ndarray, duration: float, first: int, last: int) -> Window:
    """The window of the frames from `first` to `last`, with times as a manifest has them."""
    end = float(starts[last + 1]) if last + 1 < len(starts) else duration
    return Window(round(float(starts[first]), 6), round(end, 6))


@pytest.mark.parametrize(("encoder", "container"), KINDS)
def test_a_window_has_exactly_its_frames(encoder: str, container: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"clip.{container}", *ENCODERS[encoder])
    video = open_video(str(path))
    whole = list(video.frames(range(FRAMES)))
    for first, last in ((0, 0), (0, FRAMES - 1), (7, 9), (FRAMES // 2, FRAMES - 2), (FRAMES - 1, FRAMES - 1)):
        part = WindowReader(str(path), window_of(video.starts, video.duration, first, last))
        frames = list(part.frames(range(len(part.starts))))
        assert [number(frame) for frame in frames] == list(range(first, last + 1))
        assert max(np.abs(one.astype(int) - whole[first + index]).mean() for index, one in enumerate(frames)) < 1
        assert part.starts == pytest.approx(video.starts[first : last + 1] - video.starts[first], abs=1e-6)
        assert [number(frame) for frame in part.frames([last - first, 0])] == [last, first]


def test_a_window_late_in_a_video_is_not_decoded_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"])
    video, count, decoded = open_video(str(path)), 0, readers.decoded

    def counted(*arguments: object):
        nonlocal count
        for frame in decoded(*arguments):
            count += 1
            yield frame

    monkeypatch.setattr(readers, "decoded", counted)
    window = window_of(video.starts, video.duration, FRAMES - 2, FRAMES - 1)
    assert len(list(WindowReader(str(path), window).frames([0, 1]))) == 2
    assert 2 <= count < FRAMES // 2


def test_frames_of_a_variable_rate_are_chosen_by_their_times(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"], *VARIABLE_RATE)
    video = open_video(str(path))
    start, end = float(video.starts[4]), float(video.starts[11])
    expected = [index for index, time in enumerate(video.starts) if start <= time < end]
    part = WindowReader(str(path), Window(start, end))
    assert [number(frame) for frame in part.frames(range(len(part.starts)))] == expected
    assert part.duration == pytest.approx(end - start, abs=1e-6)
    between = WindowReader(str(path), Window((start + float(video.starts[5])) / 2, end))
    assert len(between.starts) == len(expected) - 1, "a frame belongs to a window if it starts in it"


def test_a_crop_is_cut_out_and_scaled(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"])
    whole = next(open_video(str(path)).frames([3]))
    crop = (16, 8, WIDTH - 32, HEIGHT - 16)
    part = WindowReader(str(path), Window(crop=crop))
    assert part.size == (HEIGHT - 16, WIDTH - 32)
    frame = next(part.frames([3]))
    assert np.abs(frame.astype(int) - whole[8 : HEIGHT - 8, 16 : WIDTH - 16]).mean() < 1
    small = next(part.frames([3], HEIGHT // 2))
    assert small.shape[:2] == (round((HEIGHT - 16) / 2), round((WIDTH - 32) / 2))


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (Window(0, 1000), "its end at 1000 s is after that of the video"),
        (Window(1000), "no frame of the video starts between 1000 and"),
        (Window(0.001, 0.002), "no frame of the video starts between 0.001 and 0.002 s"),
        (Window(crop=(8, 0, WIDTH, HEIGHT)), f"its crop [8, 0, {WIDTH}, {HEIGHT}] is not within its {WIDTH}x{HEIGHT}"),
    ],
)
def test_a_window_outside_of_the_video_is_refused(window: Window, words: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"])
    good, bad = probe_windows(str(path), (None, window))
    assert not isinstance(good, ClipError)
    assert isinstance(bad, ClipError)
    assert words in str(bad)


def read(root: Path, *lines: dict[str, object]) -> tuple[list[Row], list[DataIssue], int]:
    (root / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = Source(
        source="jsonl", root=str(root), dataset_file="dataset.jsonl", caption_column="caption", video_column="video"
    )
    rows, issues, left_out = read_source(source, False)
    return rows, issues, sum(found.by_manifest for found in left_out)


def test_a_manifest_names_windows(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "caption": "x"}
    rows, issues, excluded = read(
        tmp_path,
        row,
        row | {"start": 1, "end": 2.5},
        row | {"start": 2.5, "crop": [0, 8, 64, 32]},
        row | {"start": 1, "end": 2.5},
        row | {"keep": False, "reason": "dark", "start": "x"},
        {"video": "b.mp4", "keep": False},
        row | {"keep": True, "caption": "y", "start": None},
    )
    assert [row.window for row in rows] == [None, Window(1, 2.5), Window(2.5, None, (0, 8, 64, 32)), None]
    assert [issue.what for issue in issues] == ["repeats the video and the caption of row 2"]
    assert excluded == 2
    assert rows[1].key == f"{tmp_path}/a.mp4#t=1,2.5"
    assert all(parse_fragment(str(row.window)) == row.window for row in rows if row.window)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"start": -1}, "has start: -1"),
        ({"start": True}, "has start: True"),
        ({"end": "3"}, "has end: '3'"),
        ({"end": float("nan")}, "has end: nan"),
        ({"start": 2, "end": 2}, "ends at 2 s, not after its start at 2 s"),
        ({"crop": [0, 0, 0, 8]}, "has crop: [0, 0, 0, 8]"),
        ({"crop": [0, 0, 8]}, "has crop: [0, 0, 8]"),
        ({"crop": "0,0,8,8"}, "has crop: '0,0,8,8'"),
        ({"keep": "no"}, "has keep: 'no'"),
    ],
)
def test_a_bad_window_is_an_issue(values: dict[str, object], words: str, tmp_path: Path) -> None:
    rows, issues, _ = read(tmp_path, {"video": "a.mp4", "caption": "x"} | values)
    assert (rows, [issue.what for issue in issues]) == ([], [words])


def test_a_clip_and_a_start_image_come_from_the_window(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"])
    video = open_video(str(path))
    window = window_of(video.starts, video.duration, 10, 18)
    choice = FrameChoice(5, skip_start=0, skip_end=0, fps=None)
    frames = read_clip(str(path), choice, Bucket(5, HEIGHT, WIDTH), ResizeSpec("resize"), window=window)
    assert [number(frame) for frame in frames] == [10, 12, 14, 16, 18]
    row = Row(1, str(path), ("x",), window)
    assert number(np.asarray(open_image(frame_of(row.key, 0)))) == 10
    odd = path.rename(tmp_path / "clip#t=1.mp4")
    assert number(np.asarray(open_image(frame_of(str(odd), 3)))) == 3
