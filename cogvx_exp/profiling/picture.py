"""Draws a step and its phases as stacked bars."""

from pathlib import Path
from typing import Any

from cogvx_exp.console.figures import pyplot
from cogvx_exp.core.files import atomic_write
from cogvx_exp.profiling import parts
from cogvx_exp.profiling.analysis.breakdown import PHASES, Breakdown

COLOURS = {
    parts.ATTENTION: "#1f5a94",
    parts.FEED_FORWARD: "#5c7da8",
    parts.NORMS: "#9bb8d3",
    parts.COMPILED: "#5f88b0",
    parts.ADAPTER: "#4f8a5b",
    parts.EMBEDDINGS: "#a7c9a0",
    parts.LOSS: "#cfe0b4",
    parts.VAE_ENCODER: "#7d5ba6",
    parts.CLIP: "#e8cf96",
    parts.OPTIMIZER: "#d9a441",
    parts.DATA_WAIT: "#c2313a",
    parts.EXCHANGE: "#e07b39",
    parts.LOGGING: "#8d6e63",
    parts.BETWEEN_STEPS: "#bcaaa4",
    parts.OTHER: "#7a8794",
    parts.IDLE: "#e4e8ec",
}
WORTH_A_NAME, WORTH_A_LABEL = 0.001, 0.035
"""Minimum shares of the step for a legend entry, and for a label in the bar."""


def draw(breakdown: Breakdown, title: str, path: Path) -> None:
    """Draws the step and its phases as a PNG."""
    plt = pyplot()
    whole = breakdown.whole.seconds * 1e3
    rows = ["whole step", *(phase for phase in PHASES if getattr(breakdown.whole, phase))]
    figure, axes = plt.subplots(figsize=(10, 2.2 + 0.55 * len(rows)), dpi=120, layout="constrained")
    left = [0.0] * len(rows)
    for name, work in breakdown.parts.items():
        values = [1e3 * (work.seconds if row == "whole step" else getattr(work, row)) for row in rows]
        share = work.seconds * 1e3 / whole
        label = f"{name}  {share:.1%}" if share >= WORTH_A_NAME else None
        axes.barh(range(len(rows)), values, left=left, color=COLOURS[name], height=0.66, label=label)
        for row, value in enumerate(values):
            if value > WORTH_A_LABEL * whole:
                _write(axes, left[row] + value / 2, row, f"{value:,.1f}", COLOURS[name])
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, whole)
    axes.set_xlabel("milliseconds per step", fontsize=9)
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    figure.legend(frameon=False, fontsize=8.5, ncols=4, loc="outside lower center")
    with atomic_write(path) as tmp:
        figure.savefig(tmp, format="png")
    plt.close(figure)


def _write(axes: Any, x: float, row: int, text: str, colour: str) -> None:
    """Labels a bar, in white on dark colours."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    axes.text(x, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "#1c2430")
