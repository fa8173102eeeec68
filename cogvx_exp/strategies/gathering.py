"""Gathers what is split over the processes on the host of the first one.

So checkpoints are the same as those of one process, and a run can go on with another number of processes or another way
of splitting. One parameter at a time: all of them at once would not fit the device that had to split them.
"""

import torch
import torch.distributed as dist
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.model.adapt import initial_adapter


def for_main_process(value: torch.Tensor) -> torch.Tensor:
    """A copy on the host for the first process; the others keep nothing: most share that memory."""
    return value.to("cpu", copy=True) if dist.get_rank() == 0 else torch.empty(0)


def copy_for_main_process(
    transformer: CogVideoXTransformer3DModel, weights: dict[str, torch.Tensor]
) -> CogVideoXTransformer3DModel:
    """For the first process, a transformer of the same form with the same adapters and all weights."""
    if dist.get_rank() > 0:
        return transformer
    with torch.device("meta"):
        copy = CogVideoXTransformer3DModel.from_config(transformer.config)
        for name, config in getattr(transformer, "peft_config", {}).items():
            copy.add_adapter(config, name)
    copy.load_state_dict(weights, assign=True)
    copy.initial_adapter = initial_adapter(transformer)
    return copy
