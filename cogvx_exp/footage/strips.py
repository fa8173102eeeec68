"""Small pictures of clips, for pages."""

import base64
import io
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from cogvx_exp.config.schema import Data
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.footage.rows import ClipRow
from cogvx_exp.media.errors import ClipError
from cogvx_exp.media.window import Window, WindowReader

HEIGHT = 96
"""Pixels."""
FRAMES = 3


def strips(rows: Iterable[ClipRow], data: Data) -> Iterator[str]:
    """First, middle and last frame of each clip, as the source of an <img>; empty if it cannot be decoded."""
    rows = list(rows)
    if not rows:
        return
    with DecodingPool(data.decode_workers, data.decode_timeout) as pool:
        for strip in pool.map(strip_of, ((row.path, row.window) for row in rows)):
            yield "" if isinstance(strip, ClipError) else strip


def strip_of(path: str, window: Window) -> str:
    """The strip of a clip.

    Raises:
        ClipError: it cannot be decoded.
    """
    reader = WindowReader(path, window)
    places = np.linspace(0, len(reader.starts) - 1, FRAMES).round().astype(int).tolist()
    image = Image.fromarray(np.concatenate(list(reader.frames(places, HEIGHT)), axis=1))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
