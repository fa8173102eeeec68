"""DeepSpeed's configuration: the sizes of its buffers, and how an optimizer counts its steps."""

import torch
from diffusers import CogVideoXTransformer3DModel

DEEPSPEED_BUCKET = 500_000_000
"""DeepSpeed's own size of a bucket; at most this many values are sent at once."""
MIN_BUCKET = 1_000_000
"""Less is not worth a message of its own."""


def buffer_sizes(transformer: CogVideoXTransformer3DModel, stage: int) -> dict[str, int]:
    """Values in the buffers of ZeRO, by their settings.

    By default (deepspeed/runtime/zero/config.py) a buffer of 5e8 values is allocated whole, 0.93 GiB in bfloat16, also
    to reduce the gradients of a LoRA; and ZeRO-3 keeps up to 1e9 values gathered.
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
    """Values of the buffer in which gradients are reduced.

    Args:
        trained: values that are trained.
        block: values of a block.
        stage: 2 or 3.
    """
    return min(trained, DEEPSPEED_BUCKET if stage < 3 else max(block, MIN_BUCKET))


def _size(parameter: torch.Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def no_steps(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.Tensor | int:
    """The counter of steps that an optimizer makes for a parameter before its first one.

    A fused kernel reads it on the device (torch.optim.adam; https://github.com/pytorch/pytorch/issues/104767).
    DeepSpeed's CPUAdam, which is none of torch's, takes a number.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        return 0
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return torch.zeros((), device=parameter.device if fused else None)
