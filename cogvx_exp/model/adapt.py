"""Makes a frozen transformer trainable, and gives out what was trained."""

import re

import torch
from diffusers import CogVideoXTransformer3DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig

from cogvx_exp.config.schema import Method, Optim
from cogvx_exp.errors import UserError
from cogvx_exp.randomness import keyed_seed

MOVE_THE_BASE = ("pissa", "olora")
"""Values of method.init with which the adapter begins as a part of the base's weights, which is taken out of them."""


def make_trainable(
    transformer: CogVideoXTransformer3DModel, method: Method, seed: int, dtype: torch.dtype = torch.float32
) -> None:
    """Adds an adapter, or frees the weights themselves, and gives what is trained its type.

    float32 is the rule: gradients in float16 cannot be unscaled, and bfloat16 loses small updates unless the
    optimizer rounds them stochastically.

    Raises:
        UserError: no layer or parameter has one of the names asked for.
    """
    if method.kind == "full":
        _free(transformer, method.parameters)
    else:
        _add_adapter(transformer, method, seed)
    for parameter in trainable_parameters(transformer).values():
        parameter.data = parameter.data.to(dtype)


def trained_dtype(optim: Optim) -> torch.dtype:
    """Type of what is trained: float32, unless the optimizer rounds stochastically."""
    return torch.bfloat16 if optim.stochastic_rounding else torch.float32


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that the optimizer changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _free(transformer: CogVideoXTransformer3DModel, pattern: str | None) -> None:
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(pattern is None or re.search(pattern, name) is not None)
    if not trainable_parameters(transformer):
        example = next(iter(dict(transformer.named_parameters())))
        raise UserError(f"method.parameters={pattern} matches no parameter; their names are like {example}")


def _add_adapter(transformer: CogVideoXTransformer3DModel, method: Method, seed: int) -> None:
    devices = [transformer.device] if transformer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(keyed_seed(seed, "adapter"))
        try:
            transformer.add_adapter(peft_config_of(method))
        except ValueError as error:
            raise UserError(f"method.targets={method.targets}: {str(error).splitlines()[0]}") from None
    if method.init in MOVE_THE_BASE:
        transformer.initial_adapter = {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in trainable_parameters(transformer).items()
        }


def initial_adapter(transformer: CogVideoXTransformer3DModel) -> dict[str, torch.Tensor]:
    """What an adapter began with, by parameter, where that was taken out of the base (method.init=pissa or olora)."""
    return dict(getattr(transformer, "initial_adapter", {}))


def peft_config_of(method: Method) -> PeftConfig:
    """The configuration of a method's adapter."""
    assert method.targets
    shared = {"r": method.rank, "target_modules": list(method.targets)}
    if method.adapter == "loha":
        return LoHaConfig(**shared, alpha=method.alpha)
    if method.adapter == "lokr":
        return LoKrConfig(**shared, alpha=method.alpha)
    return LoraConfig(
        **shared,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        init_lora_weights=True if method.init == "default" else method.init,
        use_dora=method.adapter == "dora",
    )
