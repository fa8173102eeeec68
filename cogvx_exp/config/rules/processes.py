"""Rules between settings for several processes."""

from collections.abc import Iterator

from cogvx_exp.config.faults import Fault
from cogvx_exp.config.schema import Model, TrainJob

Faults = Iterator[Fault]

ZERO_OPTIMIZERS = ("torch.optim.AdamW", "torch.optim.Adam")
"""Those whose states DeepSpeed splits here."""

SHARD_OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adam",
    "torchao.optim._AdamW": "ao_adamw",
    "torchao.optim.AdamW8bit": "ao_adamw8bit",
    "torchao.optim.AdamW4bit": "ao_adamw4bit",
    "torchao.optim.AdamWFp8": "ao_adamw_fp8",
    "pytorch_optimizer.Muon": "muon",
    "pytorch_optimizer.ScheduleFreeAdamW": "schedule_free",
}
"""Those that give the same step with FSDP's parts of weights (DTensor). The kernels of bitsandbytes take plain tensors;
Adafactor and CAME change norms of rows in place, and Prodigy sums over parts, which DTensor refuses."""


def gpu_dtype(model: Model) -> str:
    """The type that a model computes in on a GPU."""
    return model.native_dtype if model.dtype == "auto" else model.dtype


def processes_fit(job: TrainJob) -> Faults:
    """Settings that several processes cannot have."""
    distributed, optim = job.distributed, job.optim
    if distributed.name == "single":
        return
    if distributed.nodes > 1 and distributed.rendezvous is None:
        yield Fault(f"distributed.nodes={distributed.nodes}", "add distributed.rendezvous=HOST:PORT of node 0")
    if distributed.node_rank >= distributed.nodes:
        problem = f"machines are numbered from 0 to {distributed.nodes - 1} (distributed.nodes={distributed.nodes})"
        yield Fault(f"distributed.node_rank={distributed.node_rank}", problem)
    together = f"distributed={distributed.name}"
    if optim.offload:
        yield Fault(together, f"optim={optim.name} is for one process; use distributed=zero2_offload with optim=adamw")
    if optim.release_gradients:
        yield Fault(together, "optim.release_gradients=true is for one process; set it to false")
    if distributed.name != "ddp":
        yield from _splitting_is_possible(job, together)
    if job.device.startswith("cuda:"):
        yield Fault(f"device={job.device}", "each process takes a GPU of its own; use device=cuda")


def _splitting_is_possible(job: TrainJob, together: str) -> Faults:
    """What fsdp and zero cannot do."""
    zero = job.distributed.name.startswith("zero")
    optim = f"optim={job.optim.name}"
    if zero and job.optim.target not in ZERO_OPTIMIZERS:
        yield Fault(optim, f"{together} splits the states of adamw and adam only; or use fsdp or ddp")
    if not zero and job.method.kind == "full" and job.optim.target not in SHARD_OPTIMIZERS:
        can = ", ".join(SHARD_OPTIMIZERS.values())
        yield Fault(optim, f"{together} splits every weight, and this optimizer needs whole ones; these do not: {can}")
    if job.quant.name != "none":
        yield Fault(f"quant={job.quant.name}", f"{together} cannot split packed weights; use distributed=ddp")
    if job.memory.stream_blocks:
        yield Fault("memory.stream_blocks=true", f"{together} moves the blocks itself; set it to false")
    if job.ema_decay and zero:
        problem = f"{together} keeps the float32 weights in buffers of its own; use distributed=fsdp or ddp"
        yield Fault(f"ema_decay={job.ema_decay}", problem)
    if gpu_dtype(job.model) == "float16" and job.device != "cpu":
        yield Fault(together, "float16 needs a GradScaler, which is not supported here; add model.dtype=bfloat16")
    if not job.optim.decay_norms_and_biases and zero:
        yield Fault("optim.decay_norms_and_biases=false", f"{together} has one parameter group; set it to true")
