"""Plots predicted memory as bars."""

import textwrap
from pathlib import Path

from cogvx_exp.console.figures import pyplot
from cogvx_exp.core.files import atomic_write
from cogvx_exp.estimate.prediction import Prediction

COLOURS = {
    "weights": "#33415c",
    "trained weights": "#5c7da8",
    "gradients": "#b0702c",
    "optimizer": "#d9a441",
    "checkpoints": "#4f8a5b",
    "inside a block": "#a7c9a0",
}


def draw(predictions: list[Prediction], labels: list[str], budget: float, path: Path) -> None:
    """Draws a bar per run: the peak of a training step by kind. Other phases are markers, the budget is a line."""
    bars = [_parts(prediction) for prediction in predictions]
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 1.9 + 0.5 * len(bars)), dpi=120, layout="constrained")
    rows = range(len(bars))
    left = [0.0] * len(bars)
    for kind, colour in COLOURS.items():
        sizes = [parts[kind] for parts in bars]
        axes.barh(rows, sizes, left=left, color=colour, label=kind, height=0.62)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    for marker, phase in (("|", "encoding"), ("D", "after_validation"), ("x", "after_testing")):
        values = [prediction.phases.get(phase) for prediction in predictions]
        if any(value is not None for value in values):
            shown = [float("nan") if value is None else value for value in values]
            axes.plot(
                shown, rows, marker, color="#c2313a", markersize=8, label=phase.replace("_", " "), linestyle="none"
            )
    reserve = max(prediction.reserve for prediction in predictions)
    axes.axvline(budget - reserve, color="#c2313a", linewidth=1.2, linestyle="--")
    axes.set_title(f"Predicted memory; dashed: {budget:g} GiB minus CUDA's own memory", fontsize=10, loc="left")
    axes.set_yticks(rows, [textwrap.fill(label, 42) for label in labels], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, max(max(left), budget) * 1.03)
    axes.set_xlabel("GiB at the peak of a training step (red: peaks of other phases)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=5, loc="outside lower center")
    with atomic_write(path) as tmp:
        figure.savefig(tmp, format="png")
    plt.close(figure)


def _parts(prediction: Prediction) -> dict[str, float]:
    """The peak by the kinds with a colour; everything temporary inside a block is combined."""
    known = {kind: prediction.at_peak.get(kind, 0.0) for kind in COLOURS if kind != "inside a block"}
    return {**known, "inside a block": prediction.phases["before_validation"] - sum(known.values())}
