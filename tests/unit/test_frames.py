"""Frame k of a clip is frame k of `ffmpeg -i FILE -fps_mode passthrough`, whatever the file and the access."""

from pathlib import Path

import numpy as np
import pytest

from cogvx_exp.media.readers import Reader
from cogvx_exp.media.video import open_video, probe_video, spread_frames
from tests.numbered import ENCODERS, FRAMES, HEIGHT, VARIABLE_RATE, WIDTH, copy, make, number, shown

KINDS = {
    "mp4": ("h264", "h264-no-b", "h264-open", "h264-refresh", "hevc", "hevc-open", "mpeg4"),
    "mov": ("h264", "hevc-open"),
    "mkv": ("h264", "h264-open", "mpeg2", "vp9"),
    "webm": ("vp9", "vp8"),
    "avi": ("h264", "mpeg4"),
    "flv": ("h264",),
    "ts": ("h264", "hevc", "mpeg2"),
    "mpg": ("mpeg2",),
}
CUTS = {
    "mp4": ("h264", "h264-open", "h264-refresh", "hevc-open"),
    "mkv": ("h264-open",),
    "ts": ("h264", "h264-open"),
    "mov": ("h264",),
}
DECORD = {("h264", "mp4"), ("h264-no-b", "mp4"), ("h264", "mov"), ("h264", "mkv"), ("vp9", "mkv")}
DECORD |= {("vp9", "webm")}


def pairs(kinds: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(encoder, container) for container, encoders in kinds.items() for encoder in encoders]


def agrees(path: Path) -> Reader:
    """Compares a clip with what ffmpeg shows: count, times, pixels; all in a row, at random and single frames."""
    video = open_video(str(path))
    frames, times = shown(path, video.size)
    count = len(frames)
    assert len(video.starts) == count
    assert video.starts == pytest.approx(times, abs=0.0011)
    assert times[-1] < video.duration < times[-1] + 0.2
    shuffled = np.random.default_rng(0).permutation(count)[:9].tolist()
    for indices in (range(count), shuffled, [count - 1, 0, count - 1], [count // 3], [count // 2, count // 2]):
        read = list(video.frames(indices))
        assert [number(frame) for frame in read] == [number(frames[index]) for index in indices]
        assert max(np.abs(one.astype(int) - frames[index]).mean() for one, index in zip(read, indices, strict=True)) < 1
    assert probe_video(str(path)).num_frames == count
    return video


@pytest.mark.parametrize(("encoder", "container"), pairs(KINDS))
def test_every_kind_of_file(encoder: str, container: str, tmp_path: Path) -> None:
    video = agrees(make(tmp_path / f"clip.{container}", *ENCODERS[encoder]))
    assert [number(frame) for frame in video.frames(range(FRAMES))] == list(range(FRAMES))
    assert (video.decoder == "decord") == ((encoder, container) in DECORD), video.decoder


@pytest.mark.parametrize(("encoder", "container"), pairs(CUTS))
def test_a_cut_by_stream_copy(encoder: str, container: str, tmp_path: Path) -> None:
    whole = make(tmp_path / f"whole.{'ts' if container == 'ts' else 'mp4'}", *ENCODERS[encoder])
    video = agrees(copy(whole, tmp_path / f"cut.{container}", "-ss", "0.7"))
    if container in ("mp4", "mov"):
        assert number(next(video.frames([0]))) >= 17, "what lies before the cut is not shown"
        assert video.decoder != "decord"


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
def test_a_variable_rate(container: str, tmp_path: Path) -> None:
    video = agrees(make(tmp_path / f"clip.{container}", *ENCODERS["h264"], *VARIABLE_RATE))
    assert np.diff(video.starts).max() > 1.9 * np.diff(video.starts).min()


@pytest.mark.parametrize("options", [("-movflags", "frag_keyframe+empty_moov"), ("-output_ts_offset", "2")])
def test_fragments_and_a_late_start(options: tuple[str, ...], tmp_path: Path) -> None:
    agrees(make(tmp_path / "clip.mp4", *ENCODERS["h264"], *options))


def test_timestamps_that_were_lost_on_the_way_through_avi(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.avi", *ENCODERS["h264"])
    video = open_video(str(copy(whole, tmp_path / "copy.mp4")))
    assert [number(frame) for frame in video.frames(range(FRAMES))] == list(range(FRAMES))


def test_a_stream_that_begins_and_ends_in_the_midst(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.ts", *ENCODERS["h264"]).read_bytes()
    part = tmp_path / "part.ts"
    part.write_bytes(whole[len(whole) // 3 : len(whole) * 4 // 5])
    assert 0 < len(agrees(part).starts) < FRAMES


def test_one_frame(tmp_path: Path) -> None:
    for container in ("mp4", "mkv", "avi", "ts"):
        info = probe_video(str(make(tmp_path / f"one.{container}", *ENCODERS["mpeg4"], frames=1)))
        assert (info.num_frames, info.height, info.width) == (1, HEIGHT, WIDTH)
        assert 0.02 < info.duration < 0.1


def test_a_strip_shows_the_frames_of_a_player(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", *ENCODERS["h264-open"])
    assert [number(frame) for frame in spread_frames(clip, 4)] == [0, 13, 26, 39]
