"""Makes a frozen transformer trainable, and gives out what was trained."""

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from peft import LoraConfig

from cogvx_exp.config.schema import Method
from cogvx_exp.errors import UserError
from cogvx_exp.randomness import keyed_seed

INIT = {"default": True}
"""peft's names for `method.init`, where they differ from ours."""


def add_adapter(transformer: CogVideoXTransformer3DModel, method: Method, seed: int) -> None:
    """Adds a LoRA whose weights are float32 and trainable.

    float32, because gradients in float16 cannot be unscaled and small updates are lost in bfloat16.

    Raises:
        UserError: no layer has one of the target names.
    """
    assert method.rank
    assert method.alpha
    assert method.targets
    assert method.dropout is not None
    assert method.init
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(method.targets),
        init_lora_weights=INIT.get(method.init, method.init),
    )
    devices = [transformer.device] if transformer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(keyed_seed(seed, "adapter"))
        try:
            transformer.add_adapter(config)
        except ValueError as error:
            raise UserError(f"method.targets={list(method.targets)}: {str(error).splitlines()[0]}") from None
    for parameter in trainable_parameters(transformer).values():
        parameter.data = parameter.data.float()


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that the optimizer changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_metadata(transformer: CogVideoXTransformer3DModel) -> dict[str, Any]:
    """The adapter's configuration as diffusers stores it; without it a loader takes alpha = rank."""
    (config,) = transformer.peft_config.values()
    metadata = config.to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in metadata.items()}
