"""Predicts the time of a run on a card, corrected by measured runs on it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.time.cards import gpu_name
from cogvx_exp.estimate.time.measured import Measured, factor_of, measured_on, measured_on_cpu, seconds_on_cpu
from cogvx_exp.estimate.time.seconds import again, rates, seconds
from cogvx_exp.estimate.time.work import JobWork, job_work
from cogvx_exp.runs.environment import device_label

OUTPUTS = Path("outputs")
HOUR = 3600
WHOLE = "whole step"
"""The only part of a prediction for a CPU."""


@dataclass(frozen=True)
class TimePrediction:
    """The predicted time of a run on one card."""

    card: str
    parts: dict[str, float]
    """Seconds of an optimizer step by part, uncorrected."""
    recomputed: float = 0.0
    """Seconds of these spent on recomputing products and attention to save memory."""
    video: float = 0.0
    """Seconds to sample and decode a video, uncorrected."""
    videos: int = 0
    """Number of videos sampled during the run."""
    steps: int | None = None
    """Steps of the run; None if they depend on the data (epochs)."""
    price_per_hour: float | None = None
    """Price of all cards together."""
    measured: list[Measured] = field(default_factory=list)
    """Runs on this card that correct the prediction."""

    @property
    def factor(self) -> float:
        """The correction factor for all times."""
        return factor_of(self.measured)

    @property
    def seconds_per_step(self) -> float:
        """Corrected time of an optimizer step."""
        return self.factor * sum(self.parts.values())

    @property
    def hours(self) -> float | None:
        """Corrected time of the run's steps and videos."""
        if self.steps is None:
            return None
        return (self.steps * self.seconds_per_step + self.factor * self.videos * self.video) / HOUR

    @property
    def cost(self) -> float | None:
        """Cost of the run."""
        return None if self.hours is None or self.price_per_hour is None else self.hours * self.price_per_hour


def predict_times(job: TrainJob, bucket: Bucket, cards: Iterable[Hardware]) -> list[TimePrediction]:
    """Predicts a run on cards; with hardware=auto and no GPU, also on this CPU if it has measured runs.

    Args:
        job: a checked job.
        bucket: shape of the clips.
        cards: cards with all values set.
    """
    cards = list(cards)
    work = job_work(job, bucket) if cards else None
    times = [_on_card(job, work, card) for card in cards if work]
    if job.hardware.name != "auto" or gpu_name(job.device):
        return times
    on_cpu = _on_cpu(job, bucket, device_label(torch.device("cpu")))
    return [*times, on_cpu] if on_cpu else times


def _on_card(job: TrainJob, work: JobWork, card: Hardware) -> TimePrediction:
    reached = rates(card, job)
    processes = job.distributed.processes * job.distributed.nodes
    return TimePrediction(
        card=card.name,
        parts=seconds(work.step, reached),
        recomputed=again(work.step, reached),
        video=sum(seconds(work.video, reached).values()) if work.video else 0.0,
        videos=-(-work.videos // processes),  # shared by the processes
        steps=_steps(job),
        price_per_hour=card.price_per_hour * processes if card.price_per_hour else None,
        measured=measured_on(card, job, _folders(job)),
    )


def _on_cpu(job: TrainJob, bucket: Bucket, cpu: str) -> TimePrediction | None:
    """Predicts a run on this CPU from measured runs; None without runs of a model of the same size."""
    measured = measured_on_cpu(cpu, job, _folders(job))
    parts = {WHOLE: seconds_on_cpu(job, bucket)} if measured else {}
    return TimePrediction(cpu, parts, steps=_steps(job), measured=measured) if measured else None


def _steps(job: TrainJob) -> int | None:
    return None if job.epochs else job.steps


def _folders(job: TrainJob) -> set[Path]:
    """Folders to search for runs."""
    return {OUTPUTS, *([job.run_dir.parent] if job.run_dir else [])}
