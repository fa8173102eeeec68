"""From a decoded frame to the picture that a player shows: upright, square pixels, no interlacing, RGB."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cogvx_exp.media.errors import ClipError

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range, by their number in ITU-T H.273."""
TO_SDR = (
    "convert it to SDR (ffmpeg -i FILE -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=mobius:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p -c:v libx264 -crf 12 NEW.mp4) or take it out"
)
DEINTERLACER = ("bwdif", "mode=send_frame:deint=interlaced")
"""One frame for each frame; those that are not flagged as interlaced pass unchanged."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a decoded frame is displayed. First the pixels become square, then the frame is turned."""

    aspect: float = 1.0
    """Width of a pixel divided by its height."""
    transpose: bool = False
    mirror_x: bool = False
    """Left and right change sides, after transposing."""
    mirror_y: bool = False
    """Top and bottom change sides, after transposing."""

    @property
    def mirrored(self) -> bool:
        """Whether it is more than a rotation."""
        return (self.transpose + self.mirror_x + self.mirror_y) % 2 == 1

    def size(self, frame: Any) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        width, height = self._square(frame)
        return (width, height) if self.transpose else (height, width)

    def picture(self, frame: Any) -> np.ndarray:
        """The picture of a PyAV frame: uint8, (height, width, 3)."""
        width, height = self._square(frame)
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def _square(self, frame: Any) -> tuple[int, int]:
        """Width and height with square pixels; the short side grows, so that no detail is lost."""
        width, height = frame.width * max(self.aspect, 1), frame.height / min(self.aspect, 1)
        return round(width), round(height)


def geometry_of(frame: Any, aspect: Any) -> Geometry:
    """The geometry that a PyAV frame's display matrix and its stream's sample aspect ratio (None: unknown) give."""
    square = float(aspect) if aspect else 1.0
    matrix = frame.side_data.get("DISPLAYMATRIX")  # iteration gives keys since PyAV 19, and gave values before
    if matrix is None:
        return Geometry(square)
    # The layout is that of libavutil/display.h: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(matrix)[:36])
    if abs(a) >= abs(b):
        return Geometry(square, False, mirror_x=a < 0, mirror_y=d < 0)
    return Geometry(square, True, mirror_x=c < 0, mirror_y=b < 0)


def refuse_hdr(frame: Any) -> None:
    """Stops at a frame whose brightness is not that of a standard screen.

    Raises:
        ClipError: it is high dynamic range.
    """
    if transfer := HDR.get(int(frame.color_trc)):
        raise ClipError(f"is HDR ({transfer}), which the models do not know", TO_SDR)


def deinterlace(frames: Iterable[Any], stream: Any) -> Iterator[Any]:
    """The frames of a PyAV stream without interlacing, as many as come in."""
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(graph.add_buffer(template=stream), graph.add(*DEINTERLACER), graph.add("buffersink")).configure()
    for frame in frames:
        graph.push(frame)
        yield from _ready(graph)
    graph.push(None)
    yield from _ready(graph)


def _ready(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
