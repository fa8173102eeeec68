"""DeepSpeed's configuration: buffer sizes, and the step counters of optimizers."""

import torch
from diffusers import CogVideoXTransformer3DModel

DEEPSPEED_BUCKET = 500_000_000
"""DeepSpeed's default bucket size: the maximum number of values per collective."""
MIN_BUCKET = 1_000_000
"""Smaller buckets are not worth a separate collective."""


def buffer_sizes(transformer: CogVideoXTransformer3DModel, stage: int) -> dict[str, int]:
    """Sizes of ZeRO's buffers in values, by setting.

    By default (deepspeed/runtime/zero/config.py) the full buffer of 5e8 values is allocated, 0.93 GiB in bfloat16, even
    for the gradients of a LoRA, and ZeRO-3 keeps up to 1e9 values gathered.
    """
    trained = sum(_size(parameter) for parameter in transformer.parameters() if parameter.requires_grad)
    blocks = transformer.transformer_blocks
    block = max(sum(_size(parameter) for parameter in block.parameters()) for block in blocks)
    bucket = reduce_bucket(trained, block, stage)
    if stage < 3:
        return {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    return {
        "reduce_bucket_size": bucket,
        "stage3_prefetch_bucket_size": block,
        "stage3_max_live_parameters": 2 * block,  # BLOCKS_GATHERED of the prediction
        "stage3_max_reuse_distance": 2 * block,
    }


def reduce_bucket(trained: int, block: int, stage: int) -> int:
    """Size of the buffer in which gradients are reduced, in values.

    Args:
        trained: number of trained values.
        block: number of values of a block.
        stage: 2 or 3.
    """
    return min(trained, DEEPSPEED_BUCKET if stage < 3 else max(block, MIN_BUCKET))


def _size(parameter: torch.Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def no_steps(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.Tensor | int:
    """An optimizer's step counter for a parameter before the first step.

    Fused kernels need it on the device (torch.optim.adam; https://github.com/pytorch/pytorch/issues/104767).
    DeepSpeed's CPUAdam, which is not a torch optimizer, uses a number.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        return 0
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return torch.zeros((), device=parameter.device if fused else None)
