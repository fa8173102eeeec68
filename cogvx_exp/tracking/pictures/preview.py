"""An animated picture of the validation videos, before and after training."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.files import atomic_write
from cogvx_exp.media.video import open_video
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.pictures.before_after import Row, before_and_after

PREVIEW = "videos.webp"
"""File of a run."""
SIDE = 160
"""The longer side of a video, in pixels."""
GAP, LINE = 6, 18
"""Pixels between videos, and the height of a line of text."""
COLUMNS = 2
"""Prompts side by side."""
QUALITY = 80


def write_preview(folder: RunFolder) -> None:
    """Writes RUN/videos.webp, if there are videos from before and after training. It loops."""
    titles, rows = before_and_after(folder)
    if not rows:
        return
    tiles = [list(_tile(titles, row)) for row in rows]
    # A shorter video shows its last frame until the longest ends.
    frames = [
        _page([tile[min(index, len(tile) - 1)] for tile in tiles]) for index in range(max(len(tile) for tile in tiles))
    ]
    first = open_video(str(rows[0].videos[-1]))
    with atomic_write(folder.path / PREVIEW) as tmp:
        frames[0].save(
            tmp,
            format="webp",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 * first.duration / len(first.starts)),
            loop=0,
            quality=QUALITY,
        )


def _tile(titles: list[str], row: Row) -> Iterator[Image.Image]:
    """The frames of a prompt: its videos side by side, their titles above, the prompt below."""
    videos = [list(_frames(path)) for path in row.videos]
    width, height = videos[0][0].size
    size = len(videos) * (width + GAP) - GAP, height + 2 * LINE
    for frames in zip_longest(*videos):
        tile = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(tile)
        for index, (title, frame) in enumerate(zip(titles, frames, strict=True)):
            left = index * (width + GAP)
            draw.text((left, 0), title, "black", _font())
            tile.paste(frame or videos[index][-1], (left, LINE))
        draw.text((0, LINE + height + 2), _shortened(row.prompt, size[0]), "black", _font())
        yield tile


def _frames(path: Path) -> Iterator[Image.Image]:
    video = open_video(str(path))
    for frame in video.frames(range(len(video.starts))):
        height, width = frame.shape[:2]
        scale = SIDE / max(height, width)
        yield Image.fromarray(np.asarray(frame)).resize(
            (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
        )


def _page(tiles: list[Image.Image]) -> Image.Image:
    """Tiles in a grid."""
    width, height = max(tile.width for tile in tiles) + 3 * GAP, max(tile.height for tile in tiles) + 2 * GAP
    columns = min(COLUMNS, len(tiles))
    page = Image.new("RGB", (columns * width + GAP, -(-len(tiles) // columns) * height + GAP), "white")
    for index, tile in enumerate(tiles):
        page.paste(tile, (GAP + index % columns * width, GAP + index // columns * height))
    return page


def _shortened(text: str, width: int) -> str:
    """As much of a text as fits into a number of pixels."""
    text = one_line(text)
    kept, end = text, ""
    while kept and _font().getlength(kept + end) > width:
        kept, end = kept[:-1], " ..."
    return kept + end


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(11)
