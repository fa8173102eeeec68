"""Stops a run that will not fit, before anything is loaded."""

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
"""One of them is there where a GPU is: NVIDIA's driver, that of Windows' subsystem, AMD's."""

CONTEXT_GIB = 0.4
"""Of a CUDA context; at least, on recent cards."""

OTHERS_GIB = 0.5
"""A desktop or a driver may take so much; more than this belongs to other programs."""

ASK = """
import json, torch
if torch.cuda.is_available():
    gpu, (free, total) = torch.cuda.get_device_properties({device!r}), torch.cuda.mem_get_info({device!r})
    print(json.dumps([free / 2**30, total / 2**30, gpu.name]))
"""


def preflight(job: TrainJob, overrides: list[str], shapes: set[Bucket]) -> None:
    """Predicts the run's memory if there is a GPU or a budget; that of the host if there is a GPU.

    Args:
        job: the checked configuration.
        overrides: the command line it came from.
        shapes: the buckets of the data.

    Raises:
        UserError: it will not fit; says what would.
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
        # The process that has asked holds a context, too, and has ended now.
        budget = min(total, free + CONTEXT_GIB)
        limit = f"the {total:.1f} GiB of this {name}"
        if budget < total - OTHERS_GIB:
            limit = f"the {budget:.1f} GiB that are free of the {total:.1f} of this {name} (nvidia-smi shows by whom)"
    quiet_libraries(job.quant.name)
    from cogvx_exp.estimate.command import refuse_if_too_large, time_in_words

    started = time.perf_counter()
    prediction = refuse_if_too_large(job, overrides, shapes, budget, limit)
    logger.info("predicted in %.1f s: %s", time.perf_counter() - started, prediction)
    duration = time_in_words(job, shapes, gpu[2]) if gpu else ""
    console.print(f"Predicted memory: {prediction.peak:.1f} GiB at most, of {budget:.1f}{duration}")
    if gpu:
        check_host(prediction.host_kinds, job.distributed.processes)


def _gpu(device: str) -> tuple[float, float, str] | None:
    """Free and all GiB of the GPU and its name, if there is one.

    Asked in another process: this one may start others and wait for them, and would hold some of the GPU meanwhile.
    """
    if not any(Path(path).exists() for path in GPU_DEVICES):
        return None
    question = ASK.format(device=device if ":" in device else "cuda")
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False).stdout
    gpu = json.loads(answer or "null")
    return (float(gpu[0]), float(gpu[1]), str(gpu[2])) if gpu else None
