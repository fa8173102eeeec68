"""Reads and writes video files.

Readers return the frames that a player shows (see `media.timeline`). decord (decord2, its maintained fork) reads the
files it is known to read correctly, PyAV the rest. torchcodec needs FFmpeg libraries on the system, and its latest
build needs CUDA.

Nothing here needs torch. It should be called in the worker processes of `decoding`: a damaged file can crash a decoder,
and a reader that was opened before a fork hangs.
"""

from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from cogvx_exp.core.disk import try_disk
from cogvx_exp.media.errors import REENCODE, ClipError
from cogvx_exp.media.readers import DecordReader, PyAvReader, Reader
from cogvx_exp.media.spacing import spread
from cogvx_exp.media.timeline import DECORD, read_timeline
from cogvx_exp.media.window import Window, WindowReader

MOST_PIXELS = 1920 * 1088
"""Per frame, for decord, which decodes ahead of a slower consumer without limit: in the end the whole clip."""
READER_VERSION = 1
"""Part of the cache key of files that decord does not read. Increase it when their decoded frames change."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a video without decoding all of it."""

    num_frames: int
    height: int
    """Pixels, as displayed."""
    width: int
    """Pixels, as displayed: upright, and with square pixels."""
    fps: float
    """Average frames per second."""
    duration: float
    """Seconds from the start of the first frame to the end of the last."""
    decoder: str = DECORD
    """The decoder, and why it is not decord: "decord", "PyAV (open GOPs)"."""


def probe_video(path: str) -> VideoInfo:
    """Reads a video's size, length and rate, and decodes its first frame.

    Raises:
        ClipError: it cannot be read as a video.
    """
    return _info(open_video(path))


def probe_windows(path: str, windows: tuple[Window | None, ...]) -> list[VideoInfo | ClipError]:
    """`probe_video` for several parts of a video (None: all of it), or the error of each that cannot be read."""
    found: list[VideoInfo | ClipError] = []
    for window in windows:
        try:
            found.append(_info(open_part(path, window)))
        except ClipError as error:
            found.append(error)
    return found


def _info(reader: Reader) -> VideoInfo:
    count = len(reader.starts)
    return VideoInfo(count, *reader.size, count / reader.duration, reader.duration, reader.decoder)


def open_video(path: str, known: VideoInfo | None = None) -> Reader:
    """Opens a video whose first frame can be decoded.

    Args:
        path: the file.
        known: result of `probe_video`, which saves determining the decoder again.

    Raises:
        ClipError: it cannot be decoded.
    """
    if known and known.decoder == DECORD and known.height * known.width <= MOST_PIXELS:
        with suppress(Exception):  # the file may have changed since
            # Without reading all packets again, which takes longer than decoding a few frames.
            reader = DecordReader(path, (known.height, known.width))
            if len(reader.starts) == known.num_frames:
                return reader
    try:
        timeline = read_timeline(path)
    except ClipError:
        raise
    except Exception as error:  # decoders raise anything for a damaged file
        raise ClipError(f"cannot be decoded ({_reason(error)})", REENCODE) from None
    if timeline.decoder != DECORD:
        return PyAvReader(path, timeline, timeline.decoder)
    if prod(timeline.size) > MOST_PIXELS:
        return PyAvReader(path, timeline, "PyAV (larger than 1080p)", seeks=True)
    try:
        return DecordReader(path, timeline.size).follow(timeline)
    except Exception:  # of several classes; decord2 3.4.0 also fails on some widths, such as 48
        return PyAvReader(path, timeline, "PyAV (decord cannot read it)")


def open_part(path: str, window: Window | None, known: VideoInfo | None = None) -> Reader:
    """Opens a part of a video (None: all of it). `known`: as in `open_video`.

    Raises:
        ClipError: it cannot be decoded, or the window is not within it.
    """
    return WindowReader(path, window) if window else open_video(path, known)


def spread_frames(path: Path, count: int) -> np.ndarray:
    """At most `count` frames of a video, spread evenly over it: uint8, (frames, height, width, 3).

    Raises:
        ClipError: it cannot be decoded.
    """
    video = open_video(str(path))
    return np.stack(list(video.frames(spread(len(video.starts), count))))


def read_video(path: Path) -> np.ndarray:
    """All frames of a video: uint8, (frames, height, width, 3).

    Raises:
        ClipError: it cannot be decoded.
    """
    video = open_video(str(path))
    return np.stack(list(video.frames(range(len(video.starts)))))


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes frames (uint8, (frames, height, width, 3)) as H.264 mp4; atomically.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}")  # keeps the suffix, from which ffmpeg infers the container
    try:
        _write_frames(tmp, frames, fps)
        if b"moov" not in tmp.read_bytes():  # the index, written last; imageio_ffmpeg hides ffmpeg's exit code
            raise OSError(f"ffmpeg could not write {path}")
    except OSError:
        tmp.unlink(missing_ok=True)
        try_disk(path.parent)
        raise
    tmp.replace(path)


def _write_frames(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg  # not needed for reading

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
    # imageio_ffmpeg's writer is a generator, which has to be started.
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _reason(error: Exception) -> str:
    """The informative part of a decoder's message."""
    text = str(error).strip().splitlines()
    return text[0].partition("]")[2].partition(":")[0].strip() or text[0][:100] if text else type(error).__name__
