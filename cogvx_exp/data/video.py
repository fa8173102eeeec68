"""Reading and writing video files.

The decoder is decord (decord2, its maintained fork, which also reads AV1): as fast as PyAV, byte for
byte the same frames, and it turns clips upright by their rotation tag. What it cannot open is tried
with PyAV: decord2 3.4.0 fails on some widths that are no multiple of 64 pixels, such as 48 and 96.
torchcodec needs FFmpeg libraries of the system, and its newest build needs CUDA.

Nothing here needs torch. It is meant to be called in the worker processes of `decoding`: a damaged
file can crash a decoder, and a reader that was opened before a fork hangs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import imageio_ffmpeg
import numpy as np

from cogvx_exp.data.faults import ClipError
from cogvx_exp.disk import try_disk

REENCODE = "re-encode it (ffmpeg -i FILE -c:v libx264 -crf 12 NEW.mp4) or take it out"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a video without reading all of it."""

    num_frames: int
    height: int
    """Pixels, upright."""
    width: int
    """Pixels, upright."""
    fps: float
    """Frames a second, on average."""
    duration: float
    """Seconds from the start of the first frame to the end of the last."""


class Reader(Protocol):
    """An open video."""

    starts: np.ndarray
    """Time at which each frame is shown, seconds from the first, (frames,)."""
    duration: float
    """Seconds."""

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at ascending indices: uint8, (height, width, 3), upright."""
        ...


def probe_video(path: str) -> VideoInfo:
    """Reads a video's size, length and rate, and decodes its first frame.

    Raises:
        ClipError: it cannot be read as a video.
    """
    reader = open_video(path)
    height, width, _ = next(iter(reader.frames([0]))).shape
    count = len(reader.starts)
    return VideoInfo(count, height, width, count / reader.duration, reader.duration)


def open_video(path: str) -> Reader:
    """Opens a video whose first frame can be decoded, with decord or else with PyAV.

    Raises:
        ClipError: neither can.
    """
    try:
        return _checked(_DecordReader(path))
    except Exception:  # decord raises errors of several classes
        try:
            return _checked(_PyAvReader(path))
        except ClipError:
            raise
        except Exception as error:
            raise ClipError(f"cannot be decoded ({_reason(error)})", REENCODE) from None


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
        if b"moov" not in beside.read_bytes():  # the index, which comes last; ffmpeg's exit code is not told
            raise OSError(f"ffmpeg could not write {path}")
    except OSError:
        beside.unlink(missing_ok=True)
        try_disk(path.parent)
        raise
    beside.replace(path)


def _write_frames(path: Path, frames: np.ndarray, fps: int) -> None:
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


class _DecordReader:
    def __init__(self, path: str):
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._reader = decord.VideoReader(path, num_threads=1)
        times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))
        self.starts = times[:, 0] - times[0, 0]
        self.duration = float(times[-1, 1] - times[0, 0])

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        # One at a time: as fast as all at once, and a long 4K clip takes no more memory than a short one.
        for found, index in enumerate(indices):
            frames = self._reader.get_batch([index]).asnumpy()
            if len(frames) != 1:
                raise _cut_off(found, len(indices))
            yield frames[0]


class _PyAvReader:
    def __init__(self, path: str):
        import av

        self._open = lambda: av.open(path)
        with self._open() as container:
            if not container.streams.video:
                raise ClipError("has no video, only sound", "take it out")
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            shown = sorted((p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None)
        if not shown:
            raise ClipError("has no frames", "take it out")
        times = np.array([time for time, _ in shown]) * base
        self.starts = times - times[0]
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        self.duration = float(self.starts[-1]) + (shown[-1][1] * base or usual)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = iter(indices)
        next_index, found = next(wanted, None), 0
        with self._open() as container:
            for index, frame in enumerate(container.decode(container.streams.video[0])):
                if index == next_index:
                    yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                    next_index, found = next(wanted, None), found + 1
                if next_index is None:
                    return
        raise _cut_off(found, len(indices))


def _checked(reader: Any) -> Reader:
    """The reader, if it can give the first frame."""
    next(iter(reader.frames([0])))
    return reader


def _cut_off(found: int, wanted: int) -> ClipError:
    return ClipError(f"only {found} of {wanted} frames can be decoded: the file is cut off or damaged", REENCODE)


def _reason(error: Exception) -> str:
    """The telling part of a decoder's message."""
    text = str(error).strip().splitlines()
    return text[0].partition("]")[2].partition(":")[0].strip() or text[0][:100] if text else type(error).__name__
