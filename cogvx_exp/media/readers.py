"""Decoders. Each returns the frames of a timeline, for indices in any order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
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
        # One at a time is as fast as all at once, and takes less memory.
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
    """Decodes from the beginning, which is correct for every file.

    Args:
        path: the file.
        timeline: its frames.
        decoder: see `Reader`.
        seeks: whether decoding starts at the last clean keyframe before the first wanted frame, where that is possible.
    """

    def __init__(self, path: str, timeline: Timeline, decoder: str, *, seeks: bool = False):
        self.starts, self.duration, self.size = timeline.starts, timeline.duration, timeline.size
        self.decoder = decoder
        self._path, self._timeline, self._seeks = path, timeline, seeks

    def frames(self, indices: Sequence[int], height: int | None = None) -> Iterator[np.ndarray]:
        """See `Reader`; pictures higher than `height` are scaled down to it."""
        times = Counter(indices)
        ascending = sorted(times)
        pictures = (self._timeline.geometry.picture(frame, height) for frame in self.raw_frames(ascending))
        pairs = zip(ascending, pictures, strict=True)
        if list(indices) == sorted(indices):
            return (frame for index, frame in pairs for _ in range(times[index]))
        # Only a choice out of order has to be kept in memory.
        kept = dict(pairs)
        return (kept[index] for index in indices)

    def raw_frames(self, indices: Sequence[int]) -> Iterator[Any]:
        """The PyAV frames at unique ascending indices."""
        wanted = iter(indices)
        following, count = next(wanted, None), 0
        for index, frame in self._numbered(following or 0):
            if index == following:
                yield frame
                following, count = next(wanted, None), count + 1
            if following is None:
                return
        if following is not None:
            raise cut_off(count, len(indices))

    def _numbered(self, first: int) -> Iterator[tuple[int, Any]]:
        """All frames from the index `first` on, and maybe some before it, with their indices."""
        entry = self._entry(first) if self._seeks else None
        if entry is not None:
            with opened(self._path) as (container, stream):
                container.seek(entry, stream=stream)
                frames = self._from(decoded(container, stream), first)
                if frames is not None:
                    yield from self._as_expected(frames, first)
                    return
        with opened(self._path) as (container, stream):
            frames = decoded(container, stream)
            if self._timeline.interlaced:
                frames = deinterlace(frames, stream)
            yield from self._as_expected(frames, 0)

    def _entry(self, first: int) -> int | None:
        """Timestamp of the last keyframe before a frame at which decoding can start; None if it is the first."""
        entries, timestamps = self._timeline.entries, self._timeline.timestamps
        if entries is None or timestamps is None or first >= len(timestamps):
            return None
        place = int(np.searchsorted(entries, timestamps[first], side="right")) - 1
        return int(entries[place]) if place > 0 else None

    def _from(self, frames: Iterator[Any], first: int) -> Iterator[Any] | None:
        """The frames after a seek, from the index `first` on; None if the seek ended after it."""
        assert self._timeline.timestamps is not None
        time = self._timeline.timestamps[first]
        try:
            frame = next((frame for frame in frames if frame.pts is None or frame.pts >= time), None)
        except ClipError:  # of a frame that is shown before the keyframe and refers to others
            return None
        return chain([frame], frames) if frame is not None and frame.pts == time else None

    def _as_expected(self, frames: Iterator[Any], first: int) -> Iterator[tuple[int, Any]]:
        """The frames with their indices, checked against the timestamps of the packets."""
        expected = self._timeline.timestamps
        for index, frame in enumerate(frames, first):
            if expected is not None and (index >= len(expected) or frame.pts != expected[index]):
                raise ClipError("its frames do not match its packets: it is damaged", REENCODE)
            yield index, frame
