"""Measured times of finished runs, which correct a prediction."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from yaml import YAMLError

from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.core.files import read_json
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.prediction import configured_buckets
from cogvx_exp.estimate.time.cards import is_card
from cogvx_exp.estimate.time.flops import FlopCount
from cogvx_exp.estimate.time.seconds import rates, seconds
from cogvx_exp.estimate.time.work import flop_count, shape_of, step_work
from cogvx_exp.estimate.trace.fake_models import architecture_of
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_job

PATTERNS = ("*/summary.json", "multirun/*/*/summary.json")
"""Where to find finished runs in an output folder."""
CPU_RATE = 1e9
"""Assumed FLOP/s of a CPU before correction by measured runs."""
MOST = 3
"""Limit on the runs used: predicting each takes a few seconds."""


@dataclass(frozen=True)
class Measured:
    """A measured run."""

    run: str
    seconds: float
    """Median time of a step."""
    predicted: float
    """Predicted time of a step, uncorrected."""


@dataclass(frozen=True)
class _Run:
    """A finished run on a device."""

    path: Path
    job: TrainJob
    seconds: float
    bucket: Bucket
    """Shape of the clips in the measured steps."""


def factor_of(measured: list[Measured]) -> float:
    """The correction factor of predictions: the median of measured over predicted time; 1 without measured runs."""
    # The median: one run beside another program must not slow down all predictions.
    return median(run.seconds / run.predicted for run in measured) if measured else 1.0


def measured_on(card: Hardware, job: TrainJob, folders: Iterable[Path]) -> list[Measured]:
    """The newest runs on a card with a model of the same size as the job's."""

    def predicted(run: _Run) -> float:
        return sum(seconds(step_work(run.job, run.bucket), rates(card, run.job)).values())

    return [
        Measured(str(run.path), run.seconds, predicted(run)) for run in _newest(partial(is_card, card), job, folders)
    ]


def measured_on_cpu(device: str, job: TrainJob, folders: Iterable[Path]) -> list[Measured]:
    """The newest runs on a CPU; their predicted time is that at `CPU_RATE`."""
    return [
        Measured(str(run.path), run.seconds, seconds_on_cpu(run.job, run.bucket))
        for run in _newest(lambda name: name == device, job, folders)
    ]


def seconds_on_cpu(job: TrainJob, bucket: Bucket) -> float:
    """Seconds of a step at `CPU_RATE`; meaningful only as a ratio between jobs."""
    passes = flop_count(job, bucket).training(shape_of(job, bucket, job.batch_size))
    return job.gradient_accumulation * passes.total / CPU_RATE


def _newest(is_device: Callable[[str], bool], job: TrainJob, folders: Iterable[Path]) -> Iterator[_Run]:
    summaries = {path for folder in folders for pattern in PATTERNS for path in folder.glob(pattern)}
    count = 0
    for path in sorted(summaries, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        run = None
        with suppress(OSError, ValueError, KeyError, YAMLError):  # incomplete, or from a version with other settings
            run = _read(path.parent, is_device, job)
        if run:
            yield run
            count += 1
        if count == MOST:
            return


def _read(folder: Path, is_device: Callable[[str], bool], job: TrainJob) -> _Run | None:
    """The run in a folder, if it is on this device and comparable with the job."""
    if not is_device(str(read_json(folder / "environment.json")["device"])):
        return None
    run = read_job(folder)
    if _size(run) != _size(job):
        return None
    lines = read_metrics(RunFolder(folder).metrics)
    seconds_of: dict[Bucket, list[float]] = {}
    for line in lines:
        bucket = _bucket_of(run, line)
        seconds_of.setdefault(bucket, []).append(line["step_seconds"])
    if not seconds_of:
        return None
    # The most frequent shape, whose median is the least disturbed by warm-up and checkpoints.
    bucket = max(seconds_of, key=lambda bucket: len(seconds_of[bucket]))
    return _Run(folder, run, median(seconds_of[bucket]), bucket)


def _bucket_of(job: TrainJob, line: dict[str, Any]) -> Bucket:
    """The shape of the clips in a step, found by the number of tokens."""
    clips, tokens = (line[f"{name}_per_second"] * line["step_seconds"] for name in ("clips", "tokens"))
    count = FlopCount(architecture_of(job), {})
    return min(configured_buckets(job), key=lambda bucket: abs(count.tokens(shape_of(job, bucket, 1)) - tokens / clips))


def _size(job: TrainJob) -> tuple[int, int, int]:
    """The architecture's dimensions, which differ between 2b and 5b."""
    architecture = job.model.transformer
    return architecture.num_layers, architecture.num_attention_heads, architecture.attention_head_dim
