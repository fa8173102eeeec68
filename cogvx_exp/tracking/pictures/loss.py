"""Plots the loss curve."""

from pathlib import Path
from typing import Any

import numpy as np

from cogvx_exp.console.figures import pyplot
from cogvx_exp.core.files import atomic_write


def plot_loss(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    """Plots loss and learning rate over the steps as PNG."""
    steps = np.array([line["step"] for line in metrics])
    loss = np.array([line["loss"] for line in metrics])
    smoothed = np.array([line["loss_smoothed"] for line in metrics])
    rate = np.array([line["lr"] for line in metrics])
    plt = pyplot()
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(8, 4.8), dpi=120, sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    upper.plot(steps, loss, ".", color="#9bb8d3", markersize=3, label="each step")
    upper.plot(steps, smoothed, color="#1f5a94", linewidth=1.8, label="smoothed")
    upper.set_ylabel("training loss")
    upper.set_title(title, fontsize=11, loc="left", parse_math=False)
    upper.legend(frameon=False, loc="upper right")
    lower.plot(steps, rate, color="#b0702c", linewidth=1.5)
    lower.set_ylabel("learning rate")
    lower.set_xlabel("optimizer step")
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as tmp:
        figure.savefig(tmp, format="png")
    plt.close(figure)
