"""Decoders. Each returns the frames of a timeline, for indices in any order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cogvx_exp.media.errors import REENCODE, ClipError, cut_off
from cogvx_exp.media.picture import deinterlace
from cogvx_exp.media.timeline import DECORD, Timeline, decoded, opened, read_timeline

ROUNDING = 0.002
"""Tolerance in seconds between the frame times of two decoders."""


class Reader(Protocol):
    """An open video."""

    starts: np.ndarray
    """Display time of each frame, seconds from the first, (frames,)."""
    duration: float
    """Seconds."""
    size: tuple[int, int]
    """Height and width as displayed, in pixels."""
    decoder: str
    """The decoder, and why it is not decord: "decord", "PyAV (open GOPs)"."""

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at these indices, in the given order: uint8, (height, width, 3), upright.

        Raises:
            ClipError: one cannot be decoded.
        """
        ...


class DecordReader:
    """Seeks to the keyframe before a frame. Only for closed GOPs without an edit list."""

    decoder = DECORD

    def __init__(self, path: str, size: tuple[int, int]):
        """Raises an exception of any class if decord cannot open the file or reports another size."""
        import decord

        # decord logs from C to the terminal, past Python's streams.
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self.size = path, size
        self._reader = decord.VideoReader(path, num_threads=1)  # clips are decoded in parallel processes already
        times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))
        self.starts = times[:, 0] - times[0, 0]
        self.duration = float(times[-1, 1] - times[0, 0])
        # The first frame is decoded in any case, to find out whether the file can be read at all.
        self._first: np.ndarray | None = None
        self._first = self._frame(0)
        if self._first.shape[:2] != size:
            raise ValueError("decord reports another size")

    def follow(self, timeline: Timeline) -> "DecordReader":
        """This reader with the exact times of the timeline.

        Raises:
            ValueError: decord reports other frames.
        """
        if len(self.starts) != len(timeline.starts) or np.abs(self.starts - timeline.starts).max() > ROUNDING:
            raise ValueError("decord reports other frames")
        # The packets' times are exact; decord's are rounded.
        self.starts, self.duration = timeline.starts, timeline.duration
        return self

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Reader`."""
        # One at a time is as fast as all at once, and memory does not grow with the length of a 4K clip.
        for place, index in enumerate(indices):
            try:
                frame = self._frame(index)
            except Exception:  # of several classes; PyAV finds out whether the file is at issue
                yield from PyAvReader(self._path, read_timeline(self._path), DECORD).frames(indices[place:])
                return
            yield frame

    def _frame(self, index: int) -> np.ndarray:
        if index == 0 and self._first is not None:
            frame, self._first = self._first, None
            return frame
        (frame,) = self._reader.get_batch([index]).asnumpy()  # none if the file is truncated
        return frame


class PyAvReader:
    """Decodes from the beginning, which is correct for every file."""

    def __init__(self, path: str, timeline: Timeline, decoder: str):
        self.starts, self.duration, self.size = timeline.starts, timeline.duration, timeline.size
        self.decoder = decoder
        self._path, self._timeline = path, timeline

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Reader`."""
        times = Counter(indices)
        ascending = sorted(times)
        pairs = zip(ascending, self._ascending(ascending), strict=True)
        if list(indices) == sorted(indices):
            return (frame for index, frame in pairs for _ in range(times[index]))
        # Only a choice out of order has to be kept in memory.
        kept = dict(pairs)
        return (kept[index] for index in indices)

    def _ascending(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at unique ascending indices."""
        wanted = iter(indices)
        following, count = next(wanted, None), 0
        with opened(self._path) as (container, stream):
            frames = self._as_expected(decoded(container, stream))
            if self._timeline.interlaced:
                frames = deinterlace(frames, stream)
            for index, frame in enumerate(frames):
                if index == following:
                    yield self._timeline.geometry.picture(frame)
                    following, count = next(wanted, None), count + 1
                if following is None:
                    return
        if following is not None:
            raise cut_off(count, len(indices))

    def _as_expected(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames, checked against the timestamps of the packets."""
        expected = self._timeline.timestamps
        for index, frame in enumerate(frames):
            if expected is not None and (index >= len(expected) or frame.pts != expected[index]):
                raise ClipError("its frames do not match its packets: it is damaged", REENCODE)
            yield frame
