"""Rules for several processes."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import Model, TrainJob

Issues = Iterator[Issue]

ZERO_OPTIMIZERS = ("torch.optim.AdamW", "torch.optim.Adam")
"""Optimizers whose states DeepSpeed shards here."""

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
"""Optimizers whose step is the same on FSDP's sharded weights (DTensor). The kernels of bitsandbytes need plain
tensors; Adafactor and CAME modify row norms in place, and Prodigy sums over shards, which DTensor does not support."""


def gpu_dtype(model: Model) -> str:
    """The dtype a model computes in on a GPU."""
    return model.native_dtype if model.dtype == "auto" else model.dtype


def processes_fit(job: TrainJob) -> Issues:
    """Settings that several processes do not support."""
    distributed, optim = job.distributed, job.optim
    if distributed.name == "single":
        return
    if distributed.nodes > 1 and distributed.rendezvous is None:
        yield Issue(f"distributed.nodes={distributed.nodes}", "add distributed.rendezvous=HOST:PORT of node 0")
    if distributed.node_rank >= distributed.nodes:
        problem = f"machines are numbered from 0 to {distributed.nodes - 1} (distributed.nodes={distributed.nodes})"
        yield Issue(f"distributed.node_rank={distributed.node_rank}", problem)
    together = f"distributed={distributed.name}"
    if optim.offload:
        yield Issue(
            together, f"optim={optim.name} only supports one process; use distributed=zero2_offload optim=adamw"
        )
    if optim.release_gradients:
        yield Issue(together, "optim.release_gradients=true only supports one process; set it to false")
    if distributed.name != "ddp":
        yield from _splitting_is_possible(job, together)
    if job.device.startswith("cuda:"):
        yield Issue(f"device={job.device}", "each process uses its own GPU; use device=cuda")


def _splitting_is_possible(job: TrainJob, together: str) -> Issues:
    """Settings that fsdp and zero do not support."""
    zero = job.distributed.name.startswith("zero")
    optim = f"optim={job.optim.name}"
    if zero and job.optim.target not in ZERO_OPTIMIZERS:
        yield Issue(optim, f"{together} only shards the states of adamw and adam; or use fsdp or ddp")
    if not zero and job.method.kind == "full" and job.optim.target not in SHARD_OPTIMIZERS:
        can = ", ".join(SHARD_OPTIMIZERS.values())
        yield Issue(optim, f"{together} shards every weight, and this optimizer needs whole weights; supported: {can}")
    if job.quant.name != "none":
        yield Issue(f"quant={job.quant.name}", f"{together} cannot shard packed weights; use distributed=ddp")
    if job.memory.stream_blocks:
        yield Issue("memory.stream_blocks=true", f"{together} moves the blocks itself; set it to false")
    if job.ema_decay and zero:
        problem = f"{together} keeps the float32 weights in its own buffers; use distributed=fsdp or ddp"
        yield Issue(f"ema_decay={job.ema_decay}", problem)
    if gpu_dtype(job.model) == "float16" and job.device != "cpu":
        yield Issue(together, "float16 needs a GradScaler, which is not supported here; add model.dtype=bfloat16")
    if not job.optim.decay_norms_and_biases and zero:
        yield Issue("optim.decay_norms_and_biases=false", f"{together} has one parameter group; set it to true")
