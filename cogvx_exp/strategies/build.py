"""Builds the strategy of `distributed=NAME`."""

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.strategies.single import DataParallel, MakeOptimizer, Strategy


def splits_weights(how: str) -> bool:
    """Whether `distributed=how` shards the weights: its strategy moves a model from the host to the device in parts."""
    return how in ("fsdp", "zero3")


def build_strategy(
    how: str,
    transformer: CogVideoXTransformer3DModel,
    make_optimizer: MakeOptimizer,
    accelerator: Accelerator,
    dtype: torch.dtype,
) -> Strategy:
    """Builds the strategy of `distributed=how`.

    Args:
        how: the choice.
        transformer: the trainable model, on the device, or on the host if `splits_weights`.
        make_optimizer: builds the optimizer from parameters by name.
        accelerator: for device and dtype.
        dtype: dtype of trained parameters.
    """
    if how == "single":
        return Strategy(transformer, make_optimizer, accelerator)
    if how == "ddp":
        return DataParallel(transformer, make_optimizer, accelerator)
    # Imported late: neither torch's FSDP nor DeepSpeed is needed by a run in one process.
    from cogvx_exp.strategies.deepspeed import DeepSpeed
    from cogvx_exp.strategies.fsdp import FullySharded

    if how == "fsdp":
        return FullySharded(transformer, make_optimizer, accelerator, dtype)
    stage = 3 if how == "zero3" else 2
    return DeepSpeed(transformer, make_optimizer, accelerator, stage, offload=how == "zero2_offload")
