"""Gathers sharded tensors on the host of the first process.

Checkpoints are therefore the same as those of one process, and a run can resume with another number of processes or
another strategy. Tensors are gathered one at a time: all at once would not fit on a device that needed sharding.
"""

import torch
import torch.distributed as dist
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.model.adapt import initial_adapter


def for_main_process(value: torch.Tensor) -> torch.Tensor:
    """A copy on the host for the first process; the others keep nothing, as most share the same host memory."""
    return value.to("cpu", copy=True) if dist.get_rank() == 0 else torch.empty(0)


def copy_for_main_process(
    transformer: CogVideoXTransformer3DModel, weights: dict[str, torch.Tensor]
) -> CogVideoXTransformer3DModel:
    """For the first process, a transformer of the same architecture with the same adapters and full weights."""
    if dist.get_rank() > 0:
        return transformer
    # On the meta device, because `assign=True` below takes the given tensors: nothing is allocated twice.
    with torch.device("meta"):
        copy = CogVideoXTransformer3DModel.from_config(transformer.config)
        # The adapter's layers must exist before weights can be assigned by their names.
        for name, config in getattr(transformer, "peft_config", {}).items():
            copy.add_adapter(config, name)
    copy.load_state_dict(weights, assign=True)
    copy.initial_adapter = initial_adapter(transformer)
    return copy
