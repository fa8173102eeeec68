"""Reading and writing video files.

A reader gives the frames that a player shows (see `media.timeline`). decord (decord2, its maintained fork)
reads what it is known to read rightly, and PyAV the rest. torchcodec needs FFmpeg libraries of the system, and
its newest build needs CUDA.

Nothing here needs torch. It is meant to be called in the worker processes of `decoding`: a damaged
file can crash a decoder, and a reader that was opened before a fork hangs.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvx_exp.core.disk import try_disk
from cogvx_exp.media.errors import REENCODE, ClipError
from cogvx_exp.media.readers import DecordReader, PyAvReader, Reader
from cogvx_exp.media.timeline import DECORD, read_timeline

READER_VERSION = 1
"""Enters the key of what is encoded from files that decord does not read. Raise it when their frames change."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a video without reading all of it."""

    num_frames: int
    height: int
    """Pixels, as displayed."""
    width: int
    """Pixels, as displayed: upright, and with square pixels."""
    fps: float
    """Frames a second, on average."""
    duration: float
    """Seconds from the start of the first frame to the end of the last."""
    decoder: str = DECORD
    """What reads it, and why it is not decord: "decord", "PyAV (open GOPs)"."""


def probe_video(path: str) -> VideoInfo:
    """Reads a video's size, length and rate, and decodes its first frame.

    Raises:
        ClipError: it cannot be read as a video.
    """
    reader = open_video(path)
    count = len(reader.starts)
    return VideoInfo(count, *reader.size, count / reader.duration, reader.duration, reader.decoder)


def open_video(path: str, known: VideoInfo | None = None) -> Reader:
    """Opens a video whose first frame can be decoded.

    Args:
        path: the file.
        known: what `probe_video` found out about it, so that it need not be found out again which decoder is right.

    Raises:
        ClipError: there is none.
    """
    if known and known.decoder == DECORD:
        with suppress(Exception):  # the file is another one by now
            reader = DecordReader(path, (known.height, known.width))
            if len(reader.starts) == known.num_frames:
                return reader
    try:
        timeline = read_timeline(path)
    except ClipError:
        raise
    except Exception as error:  # whatever a decoder does about a damaged file
        raise ClipError(f"cannot be decoded ({_reason(error)})", REENCODE) from None
    if timeline.decoder != DECORD:
        return PyAvReader(path, timeline, timeline.decoder)
    try:
        return DecordReader(path, timeline.size).follow(timeline)
    except Exception:  # decord raises errors of several classes, and decord2 3.4.0 fails on some widths, such as 48
        return PyAvReader(path, timeline, "PyAV (decord cannot read it)")


def spread_frames(path: Path, count: int) -> np.ndarray:
    """At most `count` frames of a video, spread evenly over it: uint8, (frames, height, width, 3).

    Raises:
        ClipError: it cannot be decoded.
    """
    video = open_video(str(path))
    total = len(video.starts)
    chosen = np.linspace(0, total - 1, min(total, count)).round().astype(int)
    return np.stack(list(video.frames(chosen.tolist())))


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes frames (uint8, (frames, height, width, 3)) as H.264 mp4; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")  # keeps the ending, which tells ffmpeg the container
    try:
        _write_frames(beside, frames, fps)
        if b"moov" not in beside.read_bytes():  # the index, which comes last; ffmpeg's exit code is not returned
            raise OSError(f"ffmpeg could not write {path}")
    except OSError:
        beside.unlink(missing_ok=True)
        try_disk(path.parent)
        raise
    beside.replace(path)


def _write_frames(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg  # reading does without it

    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        macro_block_size=2,
        output_params=["-crf", "12"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _reason(error: Exception) -> str:
    """The telling part of a decoder's message."""
    text = str(error).strip().splitlines()
    return text[0].partition("]")[2].partition(":")[0].strip() or text[0][:100] if text else type(error).__name__
