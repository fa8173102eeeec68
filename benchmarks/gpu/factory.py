"""The CogVideoX Factory's own training script (`--reference DIR`): `python -m benchmarks.gpu.factory FILE`.

Its script runs as it is, in this process, on the same random weights and encoded clips. Its progress bar says when a
step is done; after enough steps the process ends, since there is nothing to learn from its checkpoint.
"""

import json
import os
import runpy
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.inputs import build_weights, job_of
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.memory_use import MemoryUse
from benchmarks.gpu.results import FAILED, MEASURED, NO_MEMORY
from benchmarks.gpu.table import TIMED, WARM_UP
from benchmarks.gpu.worker import in_one_line, is_out_of_memory
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.files import write_json
from cogvx_exp.model.build import built_folder

SCRIPT = "training/cogvideox/cogvideox_text_to_video_{method}.py"
OPTIMIZERS = {
    "adamw": ["--optimizer", "adamw"],
    "adamw8bit": ["--optimizer", "adamw", "--use_8bit"],
    "cpu_offload": ["--optimizer", "adamw", "--use_cpu_offload_optimizer", "--offload_gradients"],
}
"""Its options by the names that optimizers have here."""


def main(file: Path) -> None:
    """Runs the script and writes what was seen into the file."""
    asked = json.loads(file.read_text(encoding="utf-8"))

    def write(**values: Any) -> None:
        asked.update(values)
        write_json(file, asked)

    try:
        write(machine=describe_machine())
        job = job_of(asked["settings"], Path(asked["cache"]), steps=WARM_UP + TIMED, validation=False)
        script = script_of(Path(asked["reference"]), job)
        build_weights(job)
        use = MemoryUse(torch.device("cuda"), asked["used_before_gib"])
        _count_steps(lambda times: _finish(times, use, write))
        sys.argv = [str(script), *arguments(job, Path(asked["cache"]) / "factory")]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
        raise RuntimeError("it ended before it had taken enough steps")
    except BaseException as error:
        traceback.print_exc()
        write(status=NO_MEMORY if is_out_of_memory(error) else FAILED, error=in_one_line(error))


def script_of(checkout: Path, job: TrainJob) -> Path:
    """The script for the job's method.

    Raises:
        FileNotFoundError: the checkout has none.
    """
    script = checkout.resolve() / SCRIPT.format(method=job.method.name)
    if not script.is_file():
        raise FileNotFoundError(f"{script} does not exist; give a checkout of the CogVideoX Factory")
    return script


def arguments(job: TrainJob, output: Path) -> list[str]:
    """The job's settings as arguments of the Factory's scripts."""
    assert job.data.root
    rank = ["--rank", str(job.method.rank), "--lora_alpha", str(job.method.rank)] if job.method.name == "lora" else []
    native = job.model.native
    return [
        *("--pretrained_model_name_or_path", str(built_folder(job.model, job.cache_dir))),
        *("--data_root", str(job.data.root), "--caption_column", "prompts.txt", "--video_column", "videos.txt"),
        *("--height_buckets", str(native.height), "--width_buckets", str(native.width)),
        *("--frame_buckets", str(native.num_frames), "--max_num_frames", str(native.num_frames)),
        *("--load_tensors", "--pin_memory", "--dataloader_num_workers", "0", "--output_dir", str(output)),
        *("--seed", "42", "--mixed_precision", "bf16", "--train_batch_size", str(job.batch_size), *rank),
        *("--max_train_steps", "1000", "--checkpointing_steps", "100000", "--gradient_checkpointing"),
        *("--learning_rate", "1e-4", "--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--allow_tf32"),
        *("--max_grad_norm", "1.0", "--enable_slicing", "--enable_tiling", *OPTIMIZERS[job.optim.name]),
    ]


def _count_steps(done: Any) -> None:
    """Notes when the progress bar of steps moves on, and calls `done` with the times after enough of them."""
    import tqdm.auto

    times: list[float] = []
    update = tqdm.auto.tqdm.update

    def counting(bar: Any, n: float = 1) -> Any:
        result = update(bar, n)
        if str(bar.desc).startswith("Steps"):
            torch.cuda.synchronize()
            times.append(time.perf_counter())
            if len(times) == WARM_UP + TIMED:
                done(times)
        return result

    tqdm.auto.tqdm.update = counting


def _finish(times: list[float], use: MemoryUse, write: Any) -> None:
    """Writes the times of steps, and ends the process."""
    steps = [after - before for before, after in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]
    median = round(statistics.median(steps), 4)
    write(memory=use.record("training"), timed_steps=len(steps), step_seconds=median, status=MEASURED)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
