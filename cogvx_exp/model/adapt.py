"""Makes a frozen transformer trainable, and collects its trained parameters."""

import re

import torch
from diffusers import CogVideoXTransformer3DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer

from cogvx_exp.config.schema import Method, Optim
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.randomness import keyed_seed
from cogvx_exp.model.widening import PREFIX, is_widened, train_patch_embedding

MOVE_THE_BASE = ("pissa", "olora")
"""Values of method.init that initialize the adapter from the base weights and subtract it from them."""


def make_trainable(
    transformer: CogVideoXTransformer3DModel,
    method: Method,
    seed: int,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | None = None,
) -> None:
    """Adds an adapter or unfreezes the weights, and casts the trained parameters.

    float32 is the default: GradScaler cannot unscale float16 gradients, and bfloat16 loses small updates unless the
    optimizer uses stochastic rounding.

    Args:
        transformer: the frozen model.
        method: the settings.
        seed: seed of the adapter's initialization.
        dtype: dtype of the trained parameters; None: keep that of the base.
        device: where weights are decomposed, layer by layer (method.init=pissa or olora); None: in place.

    Raises:
        UserError: no layer or parameter matches.
    """
    if method.kind == "full":
        _free(transformer, method.parameters)
    else:
        _add_adapter(transformer, method, seed, device or transformer.device)
        train_patch_embedding(transformer)
    if dtype:
        for parameter in trainable_parameters(transformer).values():
            parameter.data = parameter.data.to(dtype)


def trained_dtype(optim: Optim) -> torch.dtype:
    """Dtype of trained parameters: float32, unless the optimizer uses stochastic rounding."""
    return torch.bfloat16 if optim.stochastic_rounding else torch.float32


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _free(transformer: CogVideoXTransformer3DModel, pattern: str | None) -> None:
    for name, parameter in transformer.named_parameters():
        of_condition = is_widened(transformer) and name.startswith(PREFIX)
        parameter.requires_grad_(pattern is None or of_condition or re.search(pattern, name) is not None)
    if not trainable_parameters(transformer):
        example = next(iter(dict(transformer.named_parameters())))
        raise UserError(f"method.parameters={pattern} matches no parameter; their names are like {example}")


def _add_adapter(transformer: CogVideoXTransformer3DModel, method: Method, seed: int, device: torch.device) -> None:
    config = peft_config_of(method)
    if method.init in MOVE_THE_BASE:
        # peft would decompose during `add_adapter`, on the device of the base, which may be the host.
        config.init_lora_weights = True  # replaced in `_decompose`
    # Without the list, `fork_rng` saves the state of every visible GPU, which creates a context on each.
    devices = [transformer.device] if transformer.device.type == "cuda" else []
    # A fixed seed gives every process the same adapter; the fork keeps it from affecting other random numbers.
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(keyed_seed(seed, "adapter"))
        try:
            transformer.add_adapter(config)
        except ValueError as error:
            raise UserError(f"method.targets={method.targets}: {str(error).splitlines()[0]}") from None
    if method.adapter == "lora" and not method.dropout:
        _skip_input_casts(transformer)
    if method.init in MOVE_THE_BASE:
        _decompose(transformer, str(method.init), device)
        # The export needs it: a plain LoRA for the original base is the difference between the trained and this
        # adapter.
        transformer.initial_adapter = {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in trainable_parameters(transformer).items()
        }


def _skip_input_casts(transformer: CogVideoXTransformer3DModel) -> None:
    """Stops peft from casting each LoRA's input to float32, which autocast casts back to identical values.

    Not with dropout, whose mask depends on the dtype, nor for DoRA, which computes norms in the input's dtype.
    """
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False


def _decompose(transformer: CogVideoXTransformer3DModel, init: str, device: torch.device) -> None:
    """Initializes each layer's adapter from its base weight, which is reduced accordingly.

    The base may be on the host, where the SVDs of a 5b's layers would take hours.
    """
    (name,) = transformer.peft_config
    for path, layer in transformer.named_modules():
        if isinstance(layer, LoraLayer):
            if not isinstance(layer.get_base_layer(), torch.nn.Linear):
                raise UserError(
                    f"method.init={init} decomposes linear layers, but {path} is not linear; change method.targets"
                )
            home = layer.get_base_layer().weight.device
            layer.to(device)
            # peft's own methods, so that a file trained with its `init_lora_weights` means the same.
            layer.pissa_init(name, init) if init == "pissa" else layer.olora_init(name)
            layer.to(home)
    transformer.peft_config[name].init_lora_weights = init


def initial_adapter(transformer: CogVideoXTransformer3DModel) -> dict[str, torch.Tensor]:
    """The adapter's initial values, by parameter, if they were subtracted from the base (method.init=pissa or
    olora)."""
    return dict(getattr(transformer, "initial_adapter", {}))


def peft_config_of(method: Method) -> PeftConfig:
    """The peft configuration of a method's adapter."""
    assert method.targets
    # A list of suffixes: peft takes a single string as a regular expression over whole names.
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
