"""Decoders. Each gives the frames of a timeline, for indices in any order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cogvx_exp.media.errors import REENCODE, ClipError, cut_off
from cogvx_exp.media.picture import deinterlace
from cogvx_exp.media.timeline import DECORD, Timeline, decoded, opened, read_timeline

ROUNDING = 0.002
"""Seconds by which two decoders may differ in the time of a frame."""


class Reader(Protocol):
    """An open video."""

    starts: np.ndarray
    """Time at which each frame is shown, seconds from the first, (frames,)."""
    duration: float
    """Seconds."""
    size: tuple[int, int]
    """Height and width as displayed, in pixels."""
    decoder: str
    """What reads it, and why it is not decord: "decord", "PyAV (open GOPs)"."""

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at these indices, in their order: uint8, (height, width, 3), upright.

        Raises:
            ClipError: one cannot be decoded.
        """
        ...


class DecordReader:
    """Jumps to the keyframe before a frame. For closed GOPs without an edit list only."""

    decoder = DECORD

    def __init__(self, path: str, size: tuple[int, int]):
        """Raises an error of any class if decord cannot open the file or shows it in another size."""
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._path, self.size = path, size
        self._reader = decord.VideoReader(path, num_threads=1)
        times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))
        self.starts = times[:, 0] - times[0, 0]
        self.duration = float(times[-1, 1] - times[0, 0])
        self._first: np.ndarray | None = None
        self._first = self._frame(0)
        if self._first.shape[:2] != size:
            raise ValueError("decord finds another size")

    def follow(self, timeline: Timeline) -> "DecordReader":
        """This reader with the exact times of a timeline.

        Raises:
            ValueError: decord finds other frames.
        """
        if len(self.starts) != len(timeline.starts) or np.abs(self.starts - timeline.starts).max() > ROUNDING:
            raise ValueError("decord finds other frames")
        self.starts, self.duration = timeline.starts, timeline.duration
        return self

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Reader`."""
        # One at a time: as fast as all at once, and a long 4K clip takes no more memory than a short one.
        for place, index in enumerate(indices):
            try:
                frame = self._frame(index)
            except Exception:  # of several classes; PyAV tells whether it is the file
                yield from PyAvReader(self._path, read_timeline(self._path), DECORD).frames(indices[place:])
                return
            yield frame

    def _frame(self, index: int) -> np.ndarray:
        if index == 0 and self._first is not None:
            frame, self._first = self._first, None
            return frame
        (frame,) = self._reader.get_batch([index]).asnumpy()  # none if the file is cut off
        return frame


class PyAvReader:
    """Reads from the beginning, which is right for every file."""

    def __init__(self, path: str, timeline: Timeline, decoder: str):
        self.starts, self.duration, self.size = timeline.starts, timeline.duration, timeline.size
        self.decoder = decoder
        self._path, self._timeline = path, timeline

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Reader`."""
        times = Counter(indices)
        ascending = sorted(times)
        found = zip(ascending, self._ascending(ascending), strict=True)
        if list(indices) == sorted(indices):
            return (frame for index, frame in found for _ in range(times[index]))
        kept = dict(found)
        return (kept[index] for index in indices)

    def _ascending(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at ascending indices, each once."""
        wanted = iter(indices)
        following, found = next(wanted, None), 0
        with opened(self._path) as (container, stream):
            frames = self._as_expected(decoded(container, stream))
            if self._timeline.interlaced:
                frames = deinterlace(frames, stream)
            for index, frame in enumerate(frames):
                if index == following:
                    yield self._timeline.geometry.picture(frame)
                    following, found = next(wanted, None), found + 1
                if following is None:
                    return
        if following is not None:
            raise cut_off(found, len(indices))

    def _as_expected(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames, as long as each is the one that the packets announced."""
        expected = self._timeline.timestamps
        for index, frame in enumerate(frames):
            if expected is not None and (index >= len(expected) or frame.pts != expected[index]):
                raise ClipError("has other frames than it announces: it is damaged", REENCODE)
            yield frame
