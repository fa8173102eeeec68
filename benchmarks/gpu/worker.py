"""The process of one measurement: `python -m benchmarks.gpu.worker FILE`, where FILE has its arguments as JSON.

It does what a training run does, with the same functions, but for the checkpoint and the export, which at the size of a
5b would fill disks and say nothing about the GPU. What is known is written into the file after each part.
"""

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

import torch

from benchmarks.gpu.inputs import build_weights, job_of
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.memory_use import MemoryUse
from benchmarks.gpu.results import FAILED, MEASURED, NO_MEMORY
from benchmarks.gpu.table import TIMED, WARM_UP
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.files import write_json
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.evaluation.validation import Validator
from cogvx_exp.model.device import choose_compute
from cogvx_exp.runs.metrics import Metrics, read_metrics
from cogvx_exp.training.loop import LoopConfig, train_loop
from cogvx_exp.training.run import accelerator_for, set_tf32
from cogvx_exp.training.setup import PreparedData, Training, build_training, prepare_data

LEAST_TIMED = 3
SHARE_OF_STEPS = 0.6
"""Of the time that there is: then fewer steps have to do, but `LEAST_TIMED`."""


def main(file: Path) -> None:
    """Measures, and writes how it ended."""
    asked = json.loads(file.read_text(encoding="utf-8"))
    cache = Path(asked["cache"])

    def write(**values: Any) -> None:
        asked.update(values)
        write_json(file, asked)

    try:
        write(machine=describe_machine())
        job = job_of(asked["settings"], cache, steps=WARM_UP + TIMED, validation=asked["validation"])
        _measure(job, asked, write)
        write(status=MEASURED)
    except Exception as error:
        traceback.print_exc()
        write(status=NO_MEMORY if is_out_of_memory(error) else FAILED, error=in_one_line(error))


def _measure(job: TrainJob, asked: dict[str, Any], write: Callable[..., None]) -> None:
    """Takes the steps and, if asked to, samples a video."""
    compute = choose_compute(job.device, job.model)
    set_tf32(job.allow_tf32)
    build_weights(job)
    use = MemoryUse(compute.device, asked["used_before_gib"])
    dataset = load_dataset(job.data, job.cache_dir)
    data = prepare_data(job, dataset, compute, job.cache_dir / "faults.csv", ProcessGroup())
    use.begin()
    try:
        with accelerator_for(compute) as accelerator:
            training = build_training(job, data, accelerator)
            write(memory=use.record("before_training"))
            write(**_take_steps(job, data, training, Path(asked["metrics"]), asked["seconds"]))
            write(memory=use.record("training"))
            if data.validator:
                _sample(data.validator, training, job, write)
    finally:
        if "training" in use.phases and data.validator:
            use.record("validation")  # also if the video could not be written
        write(memory=use.phases)


def _sample(validator: Validator, training: Training, job: TrainJob, write: Callable[..., None]) -> None:
    """Samples a video. Without ffmpeg it cannot be written, but all of the GPU's work is done."""
    try:
        validator.run(training.transformer, job.cache_dir / "videos", training.steps)
    except Exception as error:
        if "ffmpeg" not in str(error):
            raise
        write(note=f"the video was not written: {in_one_line(error)}")


def _take_steps(job: TrainJob, data: PreparedData, training: Training, file: Path, seconds: float) -> dict[str, Any]:
    """Trains for `training.steps`, or for fewer where they would take too long. Returns times by name."""
    until = time.monotonic() + seconds * SHARE_OF_STEPS
    file.unlink(missing_ok=True)

    def enough() -> bool:
        done = len(read_metrics(file)) + 1  # the line of this step comes after the question
        return done >= WARM_UP + LEAST_TIMED and time.monotonic() > until

    schedule = LoopConfig(
        0, training.steps, job.gradient_accumulation, job.max_grad_norm, job.seed, ProcessGroup(), enough, []
    )
    with Metrics(file, 0) as metrics:
        train_loop(training.state, training.batches(job, data), training.loss, metrics, schedule)
    lines = read_metrics(file)[WARM_UP:]
    times = {"timed_steps": len(lines), "losses": [round(line["loss"], 5) for line in lines]}
    for name in ("step_seconds", "mfu", "tokens_per_second"):
        if name in lines[0]:
            times[name] = round(statistics.median(line[name] for line in lines), 4)
    return times


def is_out_of_memory(error: BaseException) -> bool:
    """Also of libraries that have errors of their own, and of the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def in_one_line(error: BaseException) -> str:
    """Class and message."""
    text = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
