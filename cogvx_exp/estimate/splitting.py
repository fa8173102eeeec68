"""What remains on each device of a run whose state is split over several."""

from collections import Counter
from dataclasses import replace

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.estimate.training_step import StepBytes

SPLIT = {
    "zero2": ("gradients", "optimizer"),
    "zero2_offload": ("gradients", "optimizer"),
    "zero3": ("gradients", "optimizer", "weights", "trained weights"),
    "fsdp": ("gradients", "optimizer", "weights", "trained weights"),
}
"""Kinds of bytes that are split, by `distributed=NAME`."""

BLOCKS_GATHERED = 2
"""Blocks whose weights are whole at a time: one that computes, and the next one."""


def split_over(step: StepBytes, job: TrainJob) -> StepBytes:
    """The bytes of one of the job's processes. Buffers of DeepSpeed, up to some hundred MiB, are not in it."""
    world = job.distributed.processes * job.distributed.nodes
    kinds = SPLIT.get(job.distributed.name, ())
    if not kinds or world == 1:
        return step
    depth = job.model.transformer.num_layers

    def share(moment: Counter[str]) -> Counter[str]:
        result = Counter({kind: size // world if kind in kinds else size for kind, size in moment.items()})
        if "weights" in kinds:
            result["gathered blocks"] = BLOCKS_GATHERED * (moment["weights"] + moment["trained weights"]) // depth
        if job.distributed.name == "zero2_offload":
            del result["optimizer"]
        return result

    moments = ("resident", "forward", "backward", "between", "sampling", "gradients")
    return replace(step, **{moment: share(getattr(step, moment)) for moment in moments})
