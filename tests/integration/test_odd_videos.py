"""Videos as users have them: what is odd is decoded right, what is damaged costs only itself."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.decoding import DecodingPool, read_clip
from cogvx_exp.data.frames import FrameChoice
from cogvx_exp.data.issues import ClipError
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.media.readers import DecordReader
from cogvx_exp.media.timeline import DECORD
from cogvx_exp.media.video import open_video, probe_video
from tests.zoo import FRAMES, HEIGHT, WIDTH, ffmpeg


@pytest.mark.parametrize("name", ["cut.mp4", "damaged.mp4"])
def test_damage_in_the_middle_is_found_at_the_latest_when_it_is_decoded(zoo: Path, name: str) -> None:
    with pytest.raises(ClipError, match=r"damaged|cut off|cannot be decoded"):
        read_clip(str(zoo / name), FrameChoice(24, 0, 0, None), Bucket(24, 48, 80), ResizeSpec("resize"))


GOOD = ["good.mp4", "odd-size.mp4", "ten-bit.mp4", "vp9.webm", "alpha.webm", "animation.gif", "variable-rate.mp4"]


@pytest.mark.parametrize("name", [*GOOD, "small.mp4"])
def test_odd_files_are_read_frame_by_frame(zoo: Path, name: str) -> None:
    """The brightness of the lower half says which frame it is; small.mp4 is of a width that decord2 cannot read."""
    info = probe_video(str(zoo / name))
    assert info.num_frames == FRAMES
    assert info.duration == pytest.approx(31 / 8 if name == "variable-rate.mp4" else 3, abs=0.15)
    frames = read_clip(str(zoo / name), FrameChoice(8, 0, 0, None), Bucket(8, HEIGHT, WIDTH), ResizeSpec("resize"))
    assert frames.shape == (8, HEIGHT, WIDTH, 3)
    brightness = [3 * index * 240 // FRAMES for index in range(8)]
    assert frames[:, HEIGHT // 2 :].mean((1, 2, 3)) == pytest.approx(brightness, abs=8)


def test_a_clip_rotated_by_its_metadata_is_upright(zoo: Path) -> None:
    info = probe_video(str(zoo / "rotated.mp4"))
    assert (info.height, info.width) == (WIDTH, HEIGHT)
    frames = read_clip(
        str(zoo / "rotated.mp4"), FrameChoice(1, 12, 0, None), Bucket(1, WIDTH, HEIGHT), ResizeSpec("resize")
    )
    red = frames[0, :, :, 0].astype(int) - frames[0, :, :, 1] > 80
    assert red[-WIDTH // 2 :, : HEIGHT // 4].mean() > 0.8, "a quarter turn to the left moves the top left to the bottom"
    assert red.mean() < 0.2


def test_a_fast_and_a_slow_copy_give_the_same_frames_by_time(zoo: Path) -> None:
    choice, bucket = FrameChoice(20, 0, 0, 8.0), Bucket(20, HEIGHT, WIDTH)
    fast, slow = (read_clip(str(zoo / name), choice, bucket, ResizeSpec("resize")) for name in ("fast.mp4", "good.mp4"))
    assert np.abs(fast.astype(int) - slow).mean() < 2
    assert np.abs(fast[1:].astype(int) - slow[:-1]).mean() > 5, "the measure would notice a shift by one frame"


def crash() -> None:
    os.abort()


def test_a_crash_and_a_hang_cost_only_their_own_file(zoo: Path) -> None:
    with DecodingPool(2, timeout=2) as pool:
        good = (probe_video, (str(zoo / "good.mp4"),))
        tasks = [good, (crash, ()), good, (time.sleep, (600,)), good, good]
        results = list(pool.map(_call, tasks))
    assert [type(result).__name__ for result in results] == [
        "VideoInfo",
        "ClipError",
        "VideoInfo",
        "ClipError",
        "VideoInfo",
        "VideoInfo",
    ]
    assert "crashed the decoder" in str(results[1])
    assert "longer than data.decode_timeout=2 seconds" in str(results[3])


def _call(function, arguments):
    return function(*arguments)


def test_the_memory_for_a_4k_clip_does_not_grow_with_its_length(tmp_path: Path) -> None:
    source = ("-f", "lavfi", "-i", "testsrc=size=3840x2160:rate=8:duration=6")
    ffmpeg(*source, "-c:v", "libx264", "-preset", "ultrafast", tmp_path / "4k.mp4")
    peaks = []
    for count in (12, 48):
        with DecodingPool(1, timeout=120) as pool:
            peaks += pool.map(_read_and_measure, [(str(tmp_path / "4k.mp4"), count)])
    whole = 48 * 3840 * 2160 * 3 / 2**20
    assert peaks[1] - peaks[0] < 0.05 * whole
    assert peaks[1] < 0.3 * whole


def test_large_frames_are_those_that_decord_returns(tmp_path: Path) -> None:
    path, indices = str(tmp_path / "large.mp4"), [3, 4, 17, 23]
    source = ("-f", "lavfi", "-i", "testsrc2=size=2560x1440:rate=8:duration=3")
    ffmpeg(*source, "-c:v", "libx264", "-preset", "ultrafast", "-g", "8", "-pix_fmt", "yuv420p", path)
    large = open_video(path)
    assert large.decoder == "PyAV (larger than 1080p)"
    probed_by_decord = replace(probe_video(path), decoder=DECORD)
    assert open_video(path, probed_by_decord).decoder == large.decoder
    pairs = zip(large.frames(indices), DecordReader(path, large.size).frames(indices), strict=True)
    assert all((mine == theirs).all() for mine, theirs in pairs)


def _read_and_measure(path: str, count: int) -> float:
    """Peak memory while a clip is read, in MiB, above what the process had before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far may be that of the process it was forked from
    before = _memory("VmRSS")
    read_clip(path, FrameChoice(count, 0, 48 - count, None), Bucket(count, 48, 80), ResizeSpec("center"))
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
