"""A picture of the validation videos of each prompt, before and after training."""

from pathlib import Path

import numpy as np

from cogvx_exp.console.figures import pyplot
from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.files import atomic_write, read_json
from cogvx_exp.media.video import spread_frames
from cogvx_exp.runs.run_folder import RunFolder

FRAMES = 4
"""Frames shown per video, spread over it."""
MOST = 8
"""Maximum number of prompts shown."""


def draw_strip(folder: RunFolder) -> None:
    """Draws RUN/videos.png, if there are videos from before and after training."""
    steps = sorted((folder.path / "validation").glob("step-*"))
    pairs = [(path, steps[-1] / path.name) for path in sorted(folder.validation(0).glob("*.mp4"))]
    pairs = [pair for pair in pairs if pair[1].exists()][:MOST]
    if not pairs:
        return
    rows = [[path for path in (folder.conditions / pair[0].name, *pair) if path.exists()] for pair in pairs]
    titles = ["condition", "base model", f"after step {int(steps[-1].name.partition('-')[2])}"][-len(rows[0]) :]
    plt = pyplot()
    size = 4.5 * len(titles), 1.45 * len(rows) + 0.3
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, dpi=110, layout="constrained", squeeze=False)
    for cells, row in zip(axes, rows, strict=True):
        for cell, path in zip(cells, row, strict=True):
            cell.imshow(_frames(path), interpolation="nearest")
            cell.axis("off")
        prompt = read_json(row[-1].with_suffix(".json"))["prompt"]
        cells[0].set_title(one_line(prompt), loc="left", fontsize=8.5, parse_math=False)
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
