"""Memory per device of a run whose state is sharded."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.estimate.trace.training_step import StepBytes
from cogvx_exp.model.adapt import trained_dtype
from cogvx_exp.model.device import resolve_dtype
from cogvx_exp.strategies.build import splits_weights
from cogvx_exp.strategies.deepspeed_config import reduce_bucket

BLOCKS_GATHERED = 2
"""Gathered blocks at a time: the current one and the next."""
BLOCKS_FLAT = 2
"""ZeRO-3 holds them twice, the second time in the buffers they were received in
(runtime/zero/partition_parameters.py, `AllGatherCoalescedHandle.wait`)."""
GATHERED, TRAINED = "gathered blocks", "trained weights"
FLOAT32 = 4
"""Bytes per value."""


@dataclass(frozen=True)
class _Share:
    """Quantities that determine the memory of one process."""

    how: str
    world_size: int
    compute: int
    """Bytes per value in the dtype of the computation."""
    frozen: int
    """Bytes of the frozen weights."""
    trained: int
    """Number of trained values."""
    trained_size: int
    """Bytes per trained value."""
    block: int
    """Number of values of a block."""

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return not self.frozen


def split_over(step: StepBytes, job: TrainJob, device: str = "cuda") -> StepBytes:
    """The bytes of one of the job's processes."""
    world_size = job.distributed.processes * job.distributed.nodes
    if job.distributed.name in ("single", "ddp") or world_size == 1:
        return step
    compute = resolve_dtype(job.model, device).itemsize
    frozen, size = step.resident["weights"], trained_dtype(job.optim).itemsize
    # The EMA is counted among the trained weights and has as many values.
    trained = step.resident[TRAINED] // size // (2 if job.ema_decay else 1)
    block = (frozen // compute + trained) // job.model.transformer.num_layers
    share = _Share(job.distributed.name, world_size, compute, frozen, trained, size, block)
    return _fully_sharded(step, share) if share.how == "fsdp" else _zero(step, share)


def _fully_sharded(step: StepBytes, share: _Share) -> StepBytes:
    """FSDP2. Trained weights are sharded in full fine-tuning and replicated otherwise."""
    split = ("weights", TRAINED, "gradients", "optimizer") if share.full else ("weights",)
    parts = _each(step, lambda moment: _divided(moment, split, share.world_size))
    gathered = share.block * share.compute
    forward = Counter({GATHERED: BLOCKS_GATHERED * gathered})
    backward = forward
    if share.full:
        # The next block, plus the gradients of the current one and their float32 copy, which is reduced
        # (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, `foreach_reduce`).
        backward = Counter({GATHERED: gathered, "gradients of a block": gathered + share.block * FLOAT32})
    # While loading, one whole block is on the device beside the shards of all others.
    split_last = Counter({"a block that is split": share.block * (share.trained_size if share.full else share.compute)})
    return replace(
        parts,
        resident=parts.resident + split_last,
        forward=parts.forward + forward,
        backward=parts.backward + backward,
        sampling=parts.sampling + forward,
    )


def _zero(step: StepBytes, share: _Share) -> StepBytes:
    """DeepSpeed (runtime/zero/stage_1_and_2.py, stage3.py): computes with copies of sharded float32 weights."""
    splits, offload = splits_weights(share.how), share.how == "zero2_offload"
    part = -(-share.trained // share.world_size)
    of_weights = (part if splits else share.trained) * share.compute + (0 if offload else part * FLOAT32)

    def own(moment: Counter[str]) -> Counter[str]:
        result = _divided(moment, ("optimizer", *(("weights",) if splits else ())), share.world_size)
        result["optimizer"] *= not offload
        return result + Counter({"gradients": -result["gradients"], TRAINED: of_weights - result[TRAINED]})

    parts = _each(step, own)
    buffers = Counter({"gradients": part * share.compute})
    buffers["buckets"] = reduce_bucket(share.trained, share.block, 3 if splits else 2) * share.compute
    always = buffers if splits else Counter[str]()
    gathered = Counter({GATHERED: (BLOCKS_GATHERED + BLOCKS_FLAT) * share.block * share.compute * splits})
    # Creating the states and stepping need float32 gradients; in a step, they are made from a flat copy.
    in_float32 = Counter({"gradients in float32": 0 if offload else part * FLOAT32})
    stepping = parts.between + buffers + in_float32 + Counter({"gradients, flat": part * share.compute})
    if not splits:
        del stepping["buckets"]
    return replace(
        parts,
        resident=parts.resident + max(always, in_float32, key=Counter.total),
        forward=parts.forward + always + gathered,
        backward=max(parts.backward + buffers + gathered, stepping, key=Counter.total),
        between=parts.between + always,
        sampling=parts.sampling + always + gathered,
        gradients=Counter(gradients=buffers["gradients"]),
    )


def _each(step: StepBytes, change: Callable[[Counter[str]], Counter[str]]) -> StepBytes:
    moments = ("resident", "forward", "backward", "between", "sampling", "gradients")
    return replace(step, **{moment: change(getattr(step, moment)) for moment in moments})


def _divided(moment: Counter[str], kinds: tuple[str, ...], world_size: int) -> Counter[str]:
    return Counter({kind: size // world_size if kind in kinds else size for kind, size in moment.items()})
