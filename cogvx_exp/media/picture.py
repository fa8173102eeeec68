"""Converts decoded frames to what a player shows: upright, square pixels, deinterlaced, RGB."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cogvx_exp.media.errors import ClipError

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of HDR video, by their number in ITU-T H.273."""
TO_SDR = (
    "convert it to SDR (ffmpeg -i FILE -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=mobius:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p -c:v libx264 -crf 12 NEW.mp4) or remove it"
)
DEINTERLACER = ("bwdif", "mode=send_frame:deint=interlaced")
"""One output frame per input frame; frames not flagged as interlaced pass unchanged."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a decoded frame is displayed: first pixels are made square, then the frame is turned."""

    aspect: float = 1.0
    """Pixel aspect ratio, width / height."""
    transpose: bool = False
    mirror_x: bool = False
    """Swap left and right, after transposing."""
    mirror_y: bool = False
    """Swap top and bottom, after transposing."""

    @property
    def mirrored(self) -> bool:
        """Whether it is not a pure rotation."""
        return (self.transpose + self.mirror_x + self.mirror_y) % 2 == 1

    def size(self, frame: Any) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        width, height = self._square(frame)
        return (width, height) if self.transpose else (height, width)

    def picture(self, frame: Any, most: int | None = None) -> np.ndarray:
        """The picture of a PyAV frame: uint8, (height, width, 3), scaled down to a height of `most`."""
        width, height = self._square(frame)
        shown = width if self.transpose else height
        if most and shown > most:
            width, height = (max(round(side * most / shown), 1) for side in (width, height))
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def _square(self, frame: Any) -> tuple[int, int]:
        """Width and height with square pixels; the shorter side is scaled up, which keeps all detail."""
        # One of the two factors is 1: pixels are only ever stretched.
        width, height = frame.width * max(self.aspect, 1), frame.height / min(self.aspect, 1)
        return round(width), round(height)


def geometry_of(frame: Any, aspect: Any) -> Geometry:
    """The geometry given by a PyAV frame's display matrix and its stream's sample aspect ratio (None: unknown)."""
    square = float(aspect) if aspect else 1.0
    matrix = frame.side_data.get("DISPLAYMATRIX")  # iterating yields keys since PyAV 19, values before
    if matrix is None:
        return Geometry(square)
    # The layout is that of libavutil/display.h: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(matrix)[:36])
    if abs(a) >= abs(b):
        return Geometry(square, False, mirror_x=a < 0, mirror_y=d < 0)
    return Geometry(square, True, mirror_x=c < 0, mirror_y=b < 0)


def refuse_hdr(frame: Any) -> None:
    """Rejects frames with an HDR transfer function.

    Raises:
        ClipError: the frame is HDR.
    """
    if transfer := HDR.get(int(frame.color_trc)):
        raise ClipError(f"is HDR ({transfer}), which the models do not support", TO_SDR)


def deinterlace(frames: Iterable[Any], stream: Any) -> Iterator[Any]:
    """The frames of a PyAV stream without interlacing, one per input frame."""
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(graph.add_buffer(template=stream), graph.add(*DEINTERLACER), graph.add("buffersink")).configure()
    for frame in frames:
        graph.push(frame)
        yield from _ready(graph)
    # Flushes: bwdif holds frames back until it has seen the next one.
    graph.push(None)
    yield from _ready(graph)


def _ready(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        # Not errors: the filter needs more input, or is done.
        except (av.error.BlockingIOError, av.error.EOFError):
            return
