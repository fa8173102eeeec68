"""Parts of tensors that are split over the processes: DTensors, as FSDP2 makes them of the trained weights."""

import math

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from cogvx_exp.core.errors import UserError
from cogvx_exp.optim.flatten import QUANTIZED_STATES

QUANTIZED_FROM = 4096
"""Values from which torchao's optimizers quantize a state (torchao/optim/adam.py, `_new_buffer`)."""


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which each process has a part, gathered; all call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor on its device, if `like` is one of parts and of the same shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    if is_quantized(value):
        return _part_of_quantized(value, like)
    # All have read the same file: without a source, nothing is sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def is_quantized(value: torch.Tensor) -> bool:
    """Whether it is one of torchao's quantized optimizer states."""
    return type(value).__name__ in QUANTIZED_STATES


def check_even(optimizer: torch.optim.Optimizer) -> None:
    """Makes sure that the optimizer's states can be split: torchao gathers quantized parts of one size only.

    Raises:
        UserError: the rows of a weight do not divide by the number of processes.
    """
    if not math.isfinite(getattr(optimizer, "block_size", math.inf)):  # only those that quantize have one
        return
    world = dist.get_world_size()
    for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
        largest = -(-weight.shape[0] // world) * weight[0].numel()
        if isinstance(weight, DTensor) and weight.shape[0] % world and largest >= QUANTIZED_FROM:
            raise UserError(
                f"distributed.processes: {type(optimizer).__name__} splits its states evenly, and {weight.shape[0]} "
                f"rows of a weight do not divide by {world} processes; use another number of them, or optim=adamw"
            )


def _part_of_quantized(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """A quantized state can be cut between its blocks only; where it cannot, it goes on in float32."""
    rows = value.shape[0] // dist.get_world_size()
    start = rows * dist.get_rank()
    try:
        part = value[start : start + rows]
    except ValueError:  # of torchao: not at a block's boundary
        return part_of(value.dequantize(), like)
    return DTensor.from_local(
        part.to(like.device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
