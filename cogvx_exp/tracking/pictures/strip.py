"""A picture of the validation videos of each prompt, before and after training."""

from pathlib import Path

import numpy as np

from cogvx_exp.console.figures import pyplot
from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.files import atomic_write
from cogvx_exp.media.video import spread_frames
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.pictures.before_after import before_and_after

FRAMES = 4
"""Frames shown per video, spread over it."""


def draw_strip(folder: RunFolder) -> None:
    """Draws RUN/videos.png, if there are videos from before and after training."""
    titles, rows = before_and_after(folder)
    if not rows:
        return
    plt = pyplot()
    size = 4.5 * len(titles), 1.45 * len(rows) + 0.3
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, dpi=110, layout="constrained", squeeze=False)
    for cells, row in zip(axes, rows, strict=True):
        for cell, path in zip(cells, row.videos, strict=True):
            cell.imshow(_frames(path), interpolation="nearest")
            cell.axis("off")
        cells[0].set_title(one_line(row.prompt), loc="left", fontsize=8.5, parse_math=False)
    titles[0] += f"\n{axes[0][0].get_title('left')}"
    for cell, title in zip(axes[0], titles, strict=True):
        text = title if "\n" in title else f"{title}\n "
        cell.set_title(text, loc="left", fontsize=8.5, parse_math=False)
    with atomic_write(folder.path / "videos.png") as tmp:
        figure.savefig(tmp, format="png")
    plt.close(figure)


def _frames(path: Path) -> np.ndarray:
    """Frames of a video side by side, with a gap of two pixels."""
    frames = spread_frames(path, FRAMES)
    return np.concatenate(np.pad(frames, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=255), axis=1)
