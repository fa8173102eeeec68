"""Stops a run that does not fit before anything is loaded."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.launch.host import check_host

logger = logging.getLogger(__name__)

GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""At least one exists on a machine with a GPU: NVIDIA's driver, WSL's, AMD's."""

CONTEXT_GIB = 0.4
"""Minimum size of a CUDA context on recent cards."""

OTHERS_GIB = 0.5
"""Possible usage by a desktop or driver; anything above it belongs to other programs."""

ASK = """
import json, torch
if torch.cuda.is_available():
    gpu, (free, total) = torch.cuda.get_device_properties({device!r}), torch.cuda.mem_get_info({device!r})
    print(json.dumps([free / 2**30, total / 2**30, gpu.name]))
"""


def preflight(job: TrainJob, overrides: list[str], shapes: set[Bucket]) -> None:
    """Checks the run's predicted memory if there is a GPU or a budget, and that of the host if there is a GPU.

    Args:
        job: the checked configuration.
        overrides: the overrides of its command line.
        shapes: the buckets of the dataset.

    Raises:
        UserError: the run does not fit; suggests settings.
    """
    if not job.memory.preflight:
        return
    gpu = None if job.device == "cpu" else _gpu(job.device)
    logger.info("GPU (free GiB, all, name): %s; memory.budget=%s", gpu, job.memory.budget)
    budget = job.memory.budget
    limit = f"memory.budget={budget}"
    if budget is None:
        if gpu is None:
            return
        free, total, name = gpu
        # The querying process also had a context, which is gone now.
        budget = min(total, free + CONTEXT_GIB)
        limit = f"the {total:.1f} GiB of this {name}"
        if budget < total - OTHERS_GIB:
            limit = f"the {budget:.1f} GiB free of this {name}'s {total:.1f} (nvidia-smi shows other programs)"
    quiet_libraries(job.quant.name)
    from cogvx_exp.estimate.command import refuse_if_too_large, time_in_words

    started = time.perf_counter()
    prediction = refuse_if_too_large(job, overrides, shapes, budget, limit)
    logger.info("predicted in %.1f s: %s", time.perf_counter() - started, prediction)
    duration = time_in_words(job, shapes, gpu[2]) if gpu else ""
    console.print(f"Predicted peak memory: {prediction.peak:.1f} of {budget:.1f} GiB{duration}")
    if gpu:
        check_host(prediction.host_kinds, job.distributed.processes)


def _gpu(device: str) -> tuple[float, float, str] | None:
    """Free and total GiB of the GPU and its name, if there is one.

    Queried in another process: this one may start workers, and would hold a CUDA context while it waits for them.
    """
    if not any(Path(path).exists() for path in GPU_DEVICES):
        return None
    question = ASK.format(device=device if ":" in device else "cuda")
    # A driver that fails counts as no GPU: the run itself reports that better.
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False).stdout
    gpu = json.loads(answer or "null")
    return (float(gpu[0]), float(gpu[1]), str(gpu[2])) if gpu else None
