"""A part of a video, in time and in space, read as if it were a video of its own."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cogvx_exp.media.errors import REENCODE, ClipError
from cogvx_exp.media.readers import PyAvReader
from cogvx_exp.media.timeline import Timeline, read_timeline

TOLERANCE = 1e-4
"""Seconds by which a window's times may be rounded."""
KEPT_TIMELINES = 8
"""Per process. Determining a timeline reads the whole file, which takes longer than decoding a clip of a long video."""
FIX = "change the row"


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a video a clip is."""

    start: float = 0.0
    """Seconds. The first frame is the first that starts at this time or later."""
    end: float | None = None
    """Seconds. The last frame is the last that starts before this time; None: that of the video."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, width and height in pixels, as displayed; None: the whole picture."""

    def __str__(self) -> str:
        """As in a media fragment (W3C): `t=1.5,4&xywh=0,20,640,320`."""
        end = "" if self.end is None else f",{self.end:.10g}"
        crop = f"&xywh={','.join(map(str, self.crop))}" if self.crop else ""
        return f"t={self.start:.10g}{end}{crop}"


def parse_fragment(fragment: str) -> Window:
    """The window written as by `str`.

    Raises:
        ValueError: it is something else.
    """
    time, _, crop = fragment.removeprefix("t=").partition("&xywh=")
    start, _, end = time.partition(",")
    left, top, width, height = map(int, crop.split(",")) if crop else (0, 0, 0, 0)
    return Window(float(start), float(end) if end else None, (left, top, width, height) if crop else None)


def parse_name(name: str) -> tuple[str, Window | None]:
    """The path of a video, and the window if its media fragment follows the path."""
    path, mark, fragment = name.rpartition("#t=")
    if not mark or Path(name).exists():
        return name, None
    try:
        return path, parse_fragment(fragment)
    except ValueError:
        return name, None


class WindowReader:
    """Reads the frames of a window. It implements `Reader`.

    Args:
        path: the file.
        window: the part that is read.

    Raises:
        ClipError: the video cannot be decoded, or the window is not within it.
    """

    decoder = "PyAV (window)"

    def __init__(self, path: str, window: Window):
        timeline = _timeline(path)
        self._reader = PyAvReader(path, timeline, self.decoder, seeks=True)
        self._first, last = _range(timeline, window)
        height, width = timeline.size
        self._crop = window.crop or (0, 0, width, height)
        left, top, *size = self._crop
        self.size = size[1], size[0]
        if left + size[0] > width or top + size[1] > height:
            raise ClipError(f"its crop {list(self._crop)} is not within its {width}x{height} pixels", FIX)
        begin = timeline.starts[self._first]
        ends = timeline.starts[last + 1] if last + 1 < len(timeline.starts) else timeline.duration
        self.begin = float(begin)
        """Time of the first frame, in seconds from the beginning of the video."""
        self.starts = timeline.starts[self._first : last + 1] - begin
        self.duration = round(float(ends - begin), 9)

    def frames(self, indices: Sequence[int], height: int | None = None) -> Iterator[np.ndarray]:
        """The frames at these indices of the window, in the given order: uint8, (height, width, 3), upright.

        Args:
            indices: counted from the window's first frame.
            height: scales pictures that are higher than this down to it, which is faster than decoding them whole.

        Raises:
            ClipError: one cannot be decoded.
        """
        full_height = self._reader.size[0]
        left, top, width, rows = self._crop
        for frame in self._reader.frames([index + self._first for index in indices], height):
            scale = frame.shape[0] / full_height
            bottom, right = round((top + rows) * scale), round((left + width) * scale)
            yield np.ascontiguousarray(frame[round(top * scale) : bottom, round(left * scale) : right])


def _range(timeline: Timeline, window: Window) -> tuple[int, int]:
    """Indices of the first and the last frame.

    Raises:
        ClipError: there are none, or the window ends after the video.
    """
    end = timeline.duration if window.end is None else window.end
    if end > timeline.duration + TOLERANCE:
        raise ClipError(f"its end at {end:g} s is after that of the video ({timeline.duration:.6g} s)", FIX)
    first = int(np.searchsorted(timeline.starts, window.start - TOLERANCE))
    last = int(np.searchsorted(timeline.starts, end - TOLERANCE)) - 1
    if last < first:
        raise ClipError(f"no frame of the video starts between {window.start:g} and {end:g} s", FIX)
    return first, last


def _timeline(path: str) -> Timeline:
    try:
        status = os.stat(path)
        return _timeline_of(path, status.st_size, status.st_mtime_ns)
    except ClipError:
        raise
    except Exception as error:  # decoders raise anything for a damaged file
        raise ClipError(f"cannot be decoded ({type(error).__name__})", REENCODE) from None


@lru_cache(maxsize=KEPT_TIMELINES)
def _timeline_of(path: str, _size: int, _changed: int) -> Timeline:
    """The timeline of a file; the other arguments make it a different one when the file has changed."""
    return read_timeline(path)
