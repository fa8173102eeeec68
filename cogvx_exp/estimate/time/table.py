"""Formats predicted times."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from cogvx_exp.config.schema import Hardware
from cogvx_exp.console.progress import console
from cogvx_exp.estimate.time.prediction import WHOLE, TimePrediction

SHOWN_FROM = 0.0005
"""Minimum seconds of a part for its own column."""


def show_times(times: Sequence[TimePrediction], cards: Sequence[Hardware]) -> None:
    """Prints a run's time on each card, the assumptions about the cards, and the measured runs."""
    if not times:
        console.print("No time prediction: this GPU is not in conf/hardware; hardware=NAME predicts for another card")
        return
    console.print("Predicted time, seconds per training step", style="bold")
    console.print(_parts_table(times))
    for card in cards:
        console.print(_assumed(card), style="dim", soft_wrap=True)
    console.print(
        "Not included: encoding the data, held-out loss, checkpoints, communication between processes.", style="dim"
    )
    for prediction in times:
        for line in _measured(prediction):
            console.print(line, soft_wrap=True)


def grid_table(times: Sequence[Sequence[TimePrediction]], labels: Sequence[str]) -> Table:
    """One row per run: seconds per step and hours on each card."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=16)
    cards = list(dict.fromkeys(prediction.card for row in times for prediction in row))
    priced = any(prediction.cost is not None for row in times for prediction in row)
    for card in cards:
        for name in ("s/step", "hours", *(["cost"] if priced else [])):
            table.add_column(f"{card}\n{name}", justify="right", no_wrap=True)
    for row, label in zip(times, labels, strict=True):
        by_card = {prediction.card: prediction for prediction in row}
        figures = [cell for card in cards for cell in _figures(by_card.get(card), priced)]
        table.add_row(label, *figures)
    return table


def as_figures(prediction: TimePrediction) -> dict[str, Any]:
    """The prediction as JSON values."""
    return {
        "card": prediction.card,
        "seconds_per_step": prediction.seconds_per_step,
        "hours": prediction.hours,
        "cost": prediction.cost,
        "parts": prediction.parts,
        "recomputed": prediction.recomputed,
        "factor": prediction.factor,
        "measured": [run.run for run in prediction.measured],
    }


def in_words(prediction: TimePrediction) -> str:
    """A short text such as `about 3.4 s per step, 2.8 hours`."""
    hours = "" if prediction.hours is None else f", {_hours(prediction.hours)} hours"
    cost = "" if prediction.cost is None else f", cost {prediction.cost:.2f}"
    return f"about {_seconds(prediction.seconds_per_step)} s per step{hours}{cost}"


def _parts_table(times: Sequence[TimePrediction]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("card")
    names = dict.fromkeys(name for prediction in times for name in prediction.parts if name != WHOLE)
    parts = [name for name in names if any(prediction.parts.get(name, 0.0) >= SHOWN_FROM for prediction in times)]
    priced = any(prediction.cost is not None for prediction in times)
    for name in (*parts, "of which\nrecomputed", "step", "run,\nhours", *(["cost"] if priced else [])):
        table.add_column(name.replace(" ", "\n", 1) if name in parts else name, justify="right", no_wrap=True)
    for prediction in times:
        corrected = [prediction.factor * prediction.parts[name] if name in prediction.parts else None for name in parts]
        cells = ["-" if value is None else _seconds(value) for value in corrected]
        table.add_row(
            prediction.card, *cells, _seconds(prediction.factor * prediction.recomputed), *_figures(prediction, priced)
        )
    return table


def _figures(prediction: TimePrediction | None, priced: bool) -> list[str]:
    if prediction is None:
        return ["-"] * (3 if priced else 2)
    hours = "-" if prediction.hours is None else _hours(prediction.hours)
    cost = "-" if prediction.cost is None else f"{prediction.cost:.2f}"
    return [_seconds(prediction.seconds_per_step), hours, *([cost] if priced else [])]


def _assumed(card: Hardware) -> str:
    return (
        f"{card.name}, assumed: {card.peak_tflops:g} TFLOP/s, of which products reach {card.matmul_efficiency:.0%}, "
        f"attention {card.attention_efficiency:.0%} forward and {card.attention_backward_efficiency:.0%} backward; "
        f"{card.bandwidth:g} GB/s, of which other operations reach {card.bandwidth_efficiency:.0%}"
    )


def _measured(prediction: TimePrediction) -> Iterator[str]:
    on_cpu = WHOLE in prediction.parts
    for run in prediction.measured:
        predicted = "" if on_cpu else f", predicted {_seconds(run.predicted)}"
        yield f"Measured here: {_seconds(run.seconds)} s per step in {run.run}{predicted}"
    if prediction.measured and not on_cpu:
        yield f"The times for {prediction.card} are corrected by a factor of {prediction.factor:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _hours(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
