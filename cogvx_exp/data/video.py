"""Reading and writing video files.

The reader is decord (or its maintained fork decord2, which has the same module name). It gives RGB
frames with a rotation tag applied. Open a reader in the process that uses it: one opened before a
fork hangs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from cogvx_exp.errors import UserError


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video without reading all of it."""

    num_frames: int
    """Frames that the file announces."""
    height: int
    """Height in pixels, upright."""
    width: int
    """Width in pixels, upright."""
    fps: float
    """Frames a second, on average."""


def probe_video(path: Path) -> VideoInfo:
    """Reads a video's size, length and rate.

    Raises:
        UserError: the file cannot be read as a video.
    """
    reader = _open(path)
    try:
        height, width, _ = reader[0].shape
    except Exception as error:  # decord raises its own error classes
        raise UserError(f"no frame can be decoded ({_reason(error)})") from None
    return VideoInfo(len(reader), height, width, float(reader.get_avg_fps()))


def read_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Reads the frames at `indices` (ascending): uint8, (frames, height, width, 3).

    Raises:
        UserError: the file cannot be read, or has fewer frames than it announces.
    """
    reader = _open(path)
    try:
        frames = reader.get_batch(list(indices)).asnumpy()
    except Exception as error:
        raise UserError(f"frames cannot be decoded ({_reason(error)})") from None
    if len(frames) != len(indices):
        raise UserError(f"{len(frames)} of {len(indices)} frames could be decoded; the file is cut off")
    return frames


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes frames (uint8, (frames, height, width, 3)) as H.264 mp4; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")  # keeps the ending, which tells ffmpeg the container
    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(
        str(beside),
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
    beside.replace(path)


def _open(path: Path) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(str(path), num_threads=1)
    except Exception as error:
        raise UserError(f"cannot be read as a video ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The last sentence of an error; decord puts a C++ stack before and after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0].rsplit("Error: ", 1)[-1][:160] if lines else type(error).__name__
