"""The command `python -m cogvx_exp.memory` and its output."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose
from rich import box
from rich.table import Table
from rich.text import Text

from cogvx_exp.config.issues import ConfigError
from cogvx_exp.config.rules.jobs import check_memory
from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_json
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.advice import Advice, advise
from cogvx_exp.estimate.prediction import PHASES, Prediction, configured_buckets, largest_of, predict
from cogvx_exp.estimate.time.cards import cards_for, gpu_name
from cogvx_exp.estimate.time.prediction import TimePrediction, predict_times
from cogvx_exp.estimate.time.table import as_figures, grid_table, in_words, show_times

DEFAULT_BUDGET = 24.0
"""GiB, if no budget is set."""

OUTPUT = Path("outputs/memory")


@dataclass(frozen=True)
class Estimate:
    """A job's prediction, and suggestions if it does not fit."""

    overrides: list[str]
    budget: float
    """GiB."""
    prediction: Prediction
    advice: Advice | None = None
    cards: list[Hardware] = field(default_factory=list)
    times: list[TimePrediction] = field(default_factory=list)
    """On each of the cards, and on this CPU if it has measured runs."""


def estimate(job: TrainJob, overrides: list[str]) -> Estimate:
    """Predicts the memory and time of one of the command's jobs."""
    console.print(f"Tracing a training step of {job.name} ...", style="dim")
    result = predict_and_advise(job, overrides, job.memory.budget or DEFAULT_BUDGET)
    cards = cards_for(job.hardware, gpu_name(job.device))
    return replace(result, cards=cards, times=predict_times(job, largest_of(configured_buckets(job)), cards))


def predict_and_advise(
    job: TrainJob, overrides: list[str], budget: float, shapes: Iterable[Bucket] | None = None
) -> Estimate:
    """Predicts a job and, if it does not fit, finds settings with which it does."""
    predicted = partial(predict, shapes=set(shapes) if shapes else None)
    prediction = predicted(job)
    if prediction.fits(budget):
        return Estimate(overrides, budget, prediction)
    advice = advise(job, prediction, budget, partial(_recompose, overrides), predicted)
    return Estimate(overrides, budget, prediction, advice)


def _recompose(overrides: list[str], more: list[str]) -> TrainJob:
    """The job with further overrides. Requires an initialized Hydra."""
    replaced = {text.partition("=")[0] for text in more}
    # Removed rather than overridden: Hydra rejects two choices for one group.
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0] not in replaced]
    job = typed(compose("train", [*kept, *more]), TrainJob)
    issues = check_memory(job)
    if issues:
        raise ConfigError(issues)
    return job


def refuse_if_too_large(
    job: TrainJob, overrides: list[str], shapes: Iterable[Bucket], budget: float, limit: str
) -> Prediction:
    """The prediction of a job, which must fit.

    Args:
        job: the checked configuration.
        overrides: the overrides of its command line.
        shapes: the buckets of the dataset.
        budget: memory of the device in GiB.
        limit: description of the budget.

    Raises:
        UserError: it does not fit; suggests settings.
    """
    result = predict_and_advise(job, overrides, budget, shapes)
    if result.advice is None:
        return result.prediction
    peak, advice, reserve = result.prediction.peak, result.advice, result.prediction.reserve
    lines = [f"this run would take {peak:.1f} GiB, plus {reserve:.1f} for CUDA itself, which exceeds {limit}"]
    if advice.suggestions:
        enough = "would fit" if advice.fits else "is the lowest found"
        lines.append(f"With these settings it takes {advice.prediction.peak:.1f} GiB, which {enough}:")
        lines.append("  " + " ".join(advice.overrides))
    lines.append("For details, run python -m cogvx_exp.memory; memory.preflight=false skips this check.")
    raise UserError("\n".join(lines))


def time_in_words(job: TrainJob, shapes: Iterable[Bucket], gpu: str) -> str:
    """The predicted time on this machine's GPU, to append to a line; empty for an unknown card."""
    cards = cards_for(job.hardware, gpu)
    times = predict_times(job, largest_of(shapes), cards[:1]) if cards else []
    return f"; time: {in_words(times[0])}" if times else ""


def show(estimates: list[Estimate]) -> None:
    """Prints tables, and writes a picture and the figures as JSON."""
    if not estimates:
        return
    from cogvx_exp.estimate.picture import draw

    labels = _labels(estimates)
    console.print(_phases_table(estimates, labels))
    if len(estimates) == 1:
        console.print(_kinds_table(estimates[0].prediction))
        _print_advice(estimates[0])
        show_times(estimates[0].times, estimates[0].cards)
    else:
        console.print("Predicted time", style="bold")
        console.print(grid_table([item.times for item in estimates], labels))
    name = estimates[0].prediction.name if len(estimates) == 1 else "grid"
    write_json(OUTPUT / f"{name}.json", [_as_figures(item) for item in estimates])
    draw([item.prediction for item in estimates], labels, estimates[0].budget, OUTPUT / f"{name}.png")
    console.result(f"Picture: {OUTPUT / name}.png   figures: {OUTPUT / name}.json")


def _as_figures(item: Estimate) -> dict[str, Any]:
    times = [as_figures(prediction) for prediction in item.times]
    return {"overrides": item.overrides, "budget": item.budget, **asdict(item.prediction), "times": times}


def _labels(estimates: list[Estimate]) -> list[str]:
    """Names of the runs: their settings, without those common to all."""
    if len(estimates) == 1:
        return [estimates[0].prediction.name]
    shared = set.intersection(*(set(item.overrides) for item in estimates))
    return [" ".join(map(_short, [text for text in item.overrides if text not in shared])) for item in estimates]


def _short(override: str) -> str:
    """A group choice without the group, whose name is clear."""
    group, _, choice = override.partition("=")
    return override if "." in group or choice.isdigit() else choice


def _phases_table(estimates: list[Estimate], labels: list[str]) -> Table:
    console.print("Predicted memory on the device, GiB", style="bold")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=16)
    for phase in PHASES:
        table.add_column(phase.replace("_", "\n"), justify="right", no_wrap=True)
    budgets = {item.budget for item in estimates}
    table.add_column(f"fits\n{budgets.pop():g} GiB" if len(budgets) == 1 else "fits", no_wrap=True)
    for item, label in zip(estimates, labels, strict=True):
        phases = item.prediction.phases
        figures = [f"{phases[phase]:.2f}" if phase in phases else "-" for phase in PHASES]
        answer = Text("yes", style="green") if item.advice is None else Text("no", style="red")
        table.add_row(label, *figures, answer)
    return table


def _kinds_table(prediction: Prediction) -> Table:
    clips = f" (clips of {prediction.shape}, batch {prediction.batch_size})"
    console.print(Text.assemble(("At the peak of a training step, GiB", "bold"), clips))
    table = Table(box=None, show_header=False, padding=(0, 2))
    for kind, size in prediction.at_peak.items():
        table.add_row(kind, f"{size:6.2f}")
    for kind, size in prediction.host_kinds.items():
        if size:
            table.add_row(f"in host memory: {kind}", f"{size:6.2f}", style="dim")
    return table


def _print_advice(item: Estimate) -> None:
    advice = item.advice
    if advice is None:
        reserve = item.prediction.reserve
        spare = item.budget - item.prediction.peak - reserve
        console.result(f"Fits {item.budget:g} GiB: {spare:.1f} GiB to spare, after {reserve:.1f} GiB for CUDA itself")
        return
    if not advice.suggestions:
        console.result("No settings that need less memory were found.")
        return
    enough = "fits" if advice.fits else "is still too much, but the lowest found"
    console.result(f"Does not fit. With these settings it takes {advice.prediction.peak:.2f} GiB, which {enough}:")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for suggestion in advice.suggestions:
        kept = [text for text in suggestion.overrides if text in advice.overrides]
        table.add_row(" ".join(kept), Text(f"cost: {suggestion.cost}", style="dim"))
    console.result(table)
