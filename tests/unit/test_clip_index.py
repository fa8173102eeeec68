"""What is known of a file holds for its content; frames are spread over the clip; a decoder's surprise is one issue."""

import operator
import os
import sqlite3
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.data.frames import choose_frames, spread
from cogvx_exp.data.index.files import FileIndex, stamp_of
from cogvx_exp.data.issues import ClipError
from cogvx_exp.latents import prepare
from cogvx_exp.media.timeline import _ascending
from cogvx_exp.media.video import VideoInfo
from tests.numbered import ENCODERS, make

INFO = VideoInfo(49, 64, 128, 25.0, 1.96)


def test_frames_are_spread_over_all_of_the_clip() -> None:
    assert spread(97, 49).tolist() == list(range(0, 97, 2))
    assert spread(98, 49).tolist() == list(range(0, 97, 2)), "a multiple, as ever"
    assert spread(49, 49).tolist() == list(range(49))
    for total in range(1, 130):
        for count in range(1, total + 1):
            chosen = spread(total, count)
            steps = np.diff(chosen)
            assert len(chosen) == count
            assert chosen[0] == 0
            if count > 1:
                assert steps.min() > 0
                assert steps.max() - steps.min() <= 1
                assert total - 1 - chosen[-1] < steps.max(), "no room for another step"


@pytest.mark.parametrize("rename", [False, True])
def test_another_content_of_the_same_size_and_time_is_another_file(tmp_path: Path, rename: bool) -> None:
    path, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    path.write_bytes(b"one")
    before = stamp_of(str(path))
    with FileIndex(tmp_path / "index.sqlite") as index:
        index.add_infos([(before, INFO)])
        index.add_hashes([(before, "hash")])
        assert index.infos([before]) == {str(path): INFO}
        other.write_bytes(b"two")
        os.utime(other, ns=(before[2], before[2]))
        if rename:
            other.replace(path)
        else:
            path.write_bytes(b"two")
            os.utime(path, ns=(before[2], before[2]))
        after = stamp_of(str(path))
        assert after[1:3] == before[1:3]
        assert not index.infos([after])
        assert not index.hashes([after])


def test_what_older_versions_found_out_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE files (path TEXT PRIMARY KEY, size, mtime, num_frames, height, width, fps, duration)")
        old.execute("CREATE TABLE hashes (path TEXT PRIMARY KEY, size, mtime, hash)")
    stamp = ("clip.mp4", 1, 2, 3)
    for _ in range(2):
        with FileIndex(path) as index:
            assert index.infos([stamp]) in ({}, {"clip.mp4": INFO})
            index.add_infos([(stamp, INFO)])
    with FileIndex(path) as index:
        assert index.infos([stamp]) == {"clip.mp4": INFO}


def test_only_what_was_right_keeps_its_place_in_the_cache(make_job) -> None:
    data = make_job("data.frame_buckets=[49]", "data.max_num_frames=49").data
    bucket = SimpleNamespace(num_frames=49)

    def pixels(info: VideoInfo) -> dict:
        clip = SimpleNamespace(info=info, bucket=bucket, row=Row(1, "clip.mp4", ("x",)))
        return prepare.pixels_of(clip, data, "hash")

    as_ever = {"video": "hash", "frames": asdict(choose_frames(data, 49)), "bucket": str(bucket)}
    assert pixels(INFO) == as_ever
    assert pixels(VideoInfo(97, 64, 128, 25.0, 3.88)) == as_ever | {"spread": True}
    assert pixels(VideoInfo(49, 64, 128, 25.0, 1.96, "PyAV (open GOPs)")).keys() - as_ever.keys() == {"reader"}


def test_a_decoder_that_fails_in_a_new_way_is_an_issue() -> None:
    with DecodingPool(1, timeout=60) as pool:
        (error,) = pool.map(operator.truediv, [(1, 0)])
    assert isinstance(error, ClipError)
    assert "ZeroDivisionError" in error.what


@pytest.mark.parametrize(
    "times",
    [[np.nan], [np.nan] * 3, [0.0, np.nan, 2.0], [0.0, 0.0, 0.0], [-5.0, -4.0, -4.5], [1e9, 0.0, 3.0]],
)
def test_times_are_sane_whatever_a_file_says(times: list[float]) -> None:
    for flags in (0, 0x200):
        container = SimpleNamespace(format=SimpleNamespace(flags=flags))
        stream = SimpleNamespace(average_rate=None, guessed_rate=None)
        starts, usual = _ascending(np.array(times), container, stream)
        assert starts[0] == 0
        assert (np.diff(starts) > 0).all()
        assert 0 < usual < np.inf


def test_h264_in_avi_among_good_clips_is_decoded(make_job, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    for name in ("a.mp4", "b.avi"):
        make(root / name, *ENCODERS["h264"])
        (root / name).with_suffix(".txt").write_text(name)
    (root / "c.mp4").write_bytes(b"not a video")
    (root / "c.txt").write_text("c")
    job = make_job("data=folder", f"data.root={root}", "data.on_error=skip", "data.holdout=0")
    dataset = load_dataset(job.data, tmp_path / "cache")
    assert [Path(clip.row.path).name for clip in dataset.clips] == ["a.mp4", "b.avi"]
    assert [clip.info.decoder for clip in dataset.clips] == ["decord", "PyAV (h264 in avi)"]
    assert [issue.file for issue in dataset.issues] == ["c.mp4"]
