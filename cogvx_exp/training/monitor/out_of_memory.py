"""The message for a GPU that runs out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.units import GIB


@contextmanager
def explained_out_of_memory(job: TrainJob) -> Iterator[None]:
    """Turns a GPU's out-of-memory error inside the block into a UserError.

    Raises:
        UserError: instead of torch.OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        # The rest is about memory of other libraries, and advice on fragmentation.
        refused = str(error).splitlines()[0].split(" Including non-PyTorch")[0]
        message = f"{refused}\n{_predicted(job)}{_found()}"
    else:
        return
    # Raised outside the except block: the traceback of the first error keeps the tensors of its frames alive.
    raise UserError(f"{message}\n{_what_helps(job)}")


def _predicted(job: TrainJob) -> str:
    """The predicted memory, if it can be computed."""
    from cogvx_exp.estimate.prediction import predict

    with suppress(Exception):  # must not hide the error being reported
        return f"The predicted peak was {predict(job).peak:.1f} GiB. "
    return ""


def _found() -> str:
    free, total = torch.cuda.mem_get_info()
    # What neither this process's tensors nor torch's cache explain.
    others = max(total - free - torch.cuda.memory_reserved(), 0)
    return (
        f"The GPU has {total / GIB:.1f} GiB, of which this run's tensors used up to "
        f"{torch.cuda.max_memory_allocated() / GIB:.1f} and CUDA itself and other programs {others / GIB:.1f}."
    )


def _what_helps(job: TrainJob) -> str:
    """Settings that reduce memory and are not yet used by the job."""
    several = job.distributed.name != "single"
    helps = {
        "batch_size=1 with gradient_accumulation": job.batch_size > 1,
        "memory=24gb": job.memory.activations != "offload",
        "memory=16gb": job.memory.activations == "offload" and job.memory.ff_chunks == 1,
        "memory=12gb": job.memory.ff_chunks > 1 and not job.memory.stream_blocks and job.method.kind != "full",
        "quant=nf4": job.quant.name == "none" and job.method.kind != "full" and not job.memory.stream_blocks,
        "optim=adamw8bit": job.optim.name == "adamw" and job.distributed.name in ("single", "ddp"),
        "optim=cpu_offload_bf16": not job.optim.offload and job.method.kind == "full" and not several,
        "a smaller method.rank": job.method.kind != "full",
    }
    chosen = ", ".join(name for name, applies in helps.items() if applies)
    return (
        f"These need less: {chosen}. python -m cogvx_exp.memory with this run's settings and memory.budget=GIB "
        "finds more; resume=latest continues from the last checkpoint"
    )
