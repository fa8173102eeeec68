"""Sharded tensors: the DTensors that FSDP2 turns trained weights into."""

import math

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from cogvx_exp.core.errors import UserError
from cogvx_exp.optim.flatten import QUANTIZED_STATES

QUANTIZED_FROM = 4096
"""Minimum size of a state that torchao's optimizers quantize (torchao/optim/adam.py, `_new_buffer`)."""


def whole(value: torch.Tensor) -> torch.Tensor:
    """A sharded tensor, gathered; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's shard of a full tensor, on its device, if `like` is sharded and has the same shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    if is_quantized(value):
        return _part_of_quantized(value, like)
    # All processes have read the same file, so without a source nothing is communicated.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def is_quantized(value: torch.Tensor) -> bool:
    """Whether a tensor is one of torchao's quantized optimizer states."""
    return type(value).__name__ in QUANTIZED_STATES


def check_even(optimizer: torch.optim.Optimizer) -> None:
    """Checks that the optimizer's states can be sharded: torchao only gathers quantized shards of equal size.

    Raises:
        UserError: a weight's rows are not divisible by the number of processes.
    """
    if not math.isfinite(getattr(optimizer, "block_size", math.inf)):  # only quantizing optimizers have one
        return
    world_size = dist.get_world_size()
    for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
        largest = -(-weight.shape[0] // world_size) * weight[0].numel()
        if isinstance(weight, DTensor) and weight.shape[0] % world_size and largest >= QUANTIZED_FROM:
            raise UserError(
                f"distributed.processes: {type(optimizer).__name__} shards its states evenly, but {weight.shape[0]} "
                f"rows of a weight are not divisible by {world_size} processes; use another number, or optim=adamw"
            )


def _part_of_quantized(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """A quantized state can only be cut between its blocks; otherwise it continues in float32."""
    rows = value.shape[0] // dist.get_world_size()
    # FSDP shards the first dimension; `check_even` has made sure that the rows divide evenly.
    start = rows * dist.get_rank()
    try:
        part = value[start : start + rows]
    except ValueError:  # raised by torchao: not at a block boundary
        return part_of(value.dequantize(), like)
    return DTensor.from_local(
        part.to(like.device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
