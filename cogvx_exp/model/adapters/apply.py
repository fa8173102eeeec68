"""Applies trained adapters to a transformer, and reports how many layers they change."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from peft import LoraConfig, PeftConfig, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from cogvx_exp.config.schema import Method
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapt import MOVE_THE_BASE, peft_config_of
from cogvx_exp.model.adapters.formats import Lora, most_common, read_lora
from cogvx_exp.model.adapters.strength import peft_config
from cogvx_exp.model.widening import adapter_weights
from cogvx_exp.runs.run_folder import checkpoint_of

UNDERSTOOD = ("LORA", "LOHA", "LOKR")
"""Kinds of peft adapters, as named in adapter_config.json."""


@dataclass(frozen=True)
class Applied:
    """Effect of an adapter on a model."""

    layers: int
    """Number of layers with adapter weights."""
    changed: int
    """Number of layers that the adapter changes."""
    description: str
    """Kind, rank and alpha."""


def apply_adapter(transformer: CogVideoXTransformer3DModel, file: Path, name: str) -> Applied:
    """Adds a trained adapter of any supported kind to a transformer.

    Raises:
        UserError: a key does not match the model, or the kind is not supported.
    """
    method = checkpoint_of(file).get("config", {}).get("method")
    config = peft_config(file)
    kind = config.get("peft_type", "LORA") if config else "LORA"
    try:
        # A checkpoint of this project has no adapter_config.json; its manifest has the settings instead.
        if method and method["adapter"] in ("loha", "lokr"):
            return _put_peft(transformer, file, peft_config_of(Method.model_validate(method)), name)
        if kind not in UNDERSTOOD:
            raise UserError(f"{file} is an adapter of peft's kind {kind}; {', '.join(UNDERSTOOD)} are supported")
        if kind != "LORA":
            return _put_peft(transformer, file, PeftConfig.from_pretrained(file.parent), name)
        return _put_lora(transformer, read_lora(file, layer_sizes(transformer)), name)
    except UserError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not fit this model: {str(error).splitlines()[0]}") from None


def start_from(transformer: CogVideoXTransformer3DModel, file: Path) -> Applied:
    """Initializes the LoRA to be trained from a LoRA file, at the same strength.

    The update is independent of the two alphas: lora_B is divided by the ratio of their scales.

    Raises:
        UserError: the file has other layers or another rank.
    """
    lora = read_lora(file, layer_sizes(transformer))
    config = transformer.peft_config["default"]
    layers = {name for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)}
    setting = f"method.init_from={file}"
    ranks = {layer.rank for layer in lora.layers.values()}
    if _mutates_base(lora):
        raise UserError(
            f"{setting} was trained on changed base weights (init_lora_weights), so training cannot start from it"
        )
    if any(layer.magnitude is not None or layer.bias is not None for layer in lora.layers.values()):
        raise UserError(f"{setting} is a DoRA or has biases; training can only start from a plain LoRA")
    if ranks != {config.r}:
        rank = " and ".join(map(str, sorted(ranks)))
        raise UserError(
            f"{setting} has rank {rank}, but method.rank={config.r}; use its rank and targets: method.rank={rank}"
        )
    if lora.layers.keys() != layers:
        targets = sorted({re.sub(r"^transformer_blocks\.\d+\.(attn1\.)?", "", name) for name in lora.layers})
        raise UserError(
            f"{setting} has {len(lora.layers)} layers, but this run trains {len(layers)}; use its rank and targets: "
            f"'method.targets=[{','.join(targets)}]'"
        )
    weights = {}
    for name, layer in lora.layers.items():
        # Multiplied into lora_B and not lora_A, whose scale sets the size of lora_B's gradients.
        ratio = layer.scale / (config.lora_alpha / config.r)
        weights[f"{name}.lora_A.weight"] = layer.down
        weights[f"{name}.lora_B.weight"] = layer.up if ratio == 1 else layer.up * ratio
    _set_weights(transformer, weights, "default")
    return Applied(len(layers), sum(layer.changes for layer in lora.layers.values()), f"LoRA, {lora.describe()}")


def layer_sizes(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Input and output sizes of the layers that can have an adapter, by name, with or without one."""
    sizes = {}
    for name, module in transformer.named_modules():
        if ".base_layer" in name or ".lora_" in name:
            continue
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(base, torch.nn.Conv2d):
            sizes[name] = (base.in_channels, base.out_channels)
        elif isinstance(getattr(base, "in_features", None), int):
            sizes[name] = (base.in_features, base.out_features)
    return sizes


def _put_lora(transformer: CogVideoXTransformer3DModel, lora: Lora, name: str) -> Applied:
    layers = lora.layers
    # peft has one rank and alpha per adapter, and patterns for layers that differ: the fewer of these, the better.
    rank, alpha = (most_common(values) for values in zip(*((x.rank, x.alpha) for x in layers.values()), strict=True))
    config = LoraConfig(
        r=int(rank),
        lora_alpha=alpha,
        rank_pattern={_exactly(key): layer.rank for key, layer in layers.items() if layer.rank != rank},
        alpha_pattern={_exactly(key): layer.alpha for key, layer in layers.items() if layer.alpha != alpha},
        # Full names, so that exactly these layers get an adapter, whatever the rest of the model is called.
        target_modules=sorted(layers),
        use_dora=all(layer.magnitude is not None for layer in layers.values()),
        lora_bias=all(layer.bias is not None for layer in layers.values()),
        init_lora_weights=lora.strength.config["init_lora_weights"] if _mutates_base(lora) else True,
    )
    transformer.add_adapter(config, name)
    # peft initializes a DoRA's magnitudes from the base, so an untrained DoRA is one that keeps them.
    before = _magnitudes(transformer, name)
    weights: dict[str, torch.Tensor] = {}
    for key, layer in layers.items():
        parts = {"lora_A.weight": layer.down, "lora_B.weight": layer.up, "lora_B.bias": layer.bias}
        parts["lora_magnitude_vector"] = layer.magnitude
        weights |= {f"{key}.{part}": value for part, value in parts.items() if value is not None}
    _set_weights(transformer, weights, name)
    after = _magnitudes(transformer, name)
    scaled = {key for key in before if not torch.allclose(before[key], after[key], rtol=1e-5)}
    changed = sum(layer.changes or key in scaled for key, layer in layers.items())
    return Applied(len(layers), changed, f"{'DoRA' if after else 'LoRA'}, {lora.describe()}")


def _put_peft(transformer: CogVideoXTransformer3DModel, file: Path, config: PeftConfig, name: str) -> Applied:
    """Applies LoHa and LoKr files, which only peft writes."""
    transformer.add_adapter(config, name)
    weights = {key.removeprefix("base_model.model."): weight for key, weight in adapter_weights(file).items()}
    # Checkpoints store parameter names, which contain the adapter's name; peft's files do not.
    weights = {key.removesuffix(".default"): weight for key, weight in weights.items()}
    bad = next((key for key, weight in weights.items() if not torch.isfinite(weight).all()), None)
    if bad:
        raise UserError(f"{file}: {bad} has non-finite values; the adapter is damaged")
    _set_weights(transformer, weights, name)
    modules: Any = [module for _, module in _tuned(transformer, name)]
    with torch.no_grad():
        changed = sum(bool(module.get_delta_weight(name).any()) for module in modules)
    kind = {"LOHA": "LoHa", "LOKR": "LoKr"}[config.peft_type]
    return Applied(len(modules), changed, f"{kind}, rank {config.r}, alpha {config.alpha:g}")


def _mutates_base(lora: Lora) -> bool:
    """Whether the LoRA was trained on a base from which its initial value was subtracted.

    Raises:
        UserError: the change of the base cannot be reproduced.
    """
    init = lora.strength.config.get("init_lora_weights")
    if init in MOVE_THE_BASE:
        return True
    if isinstance(init, str) and init.startswith(("corda", "loftq", "lora_ga", "pissa")):
        raise UserError(f"the LoRA was trained with init_lora_weights={init}, which changes the base; convert it first")
    return False


def _tuned(transformer: torch.nn.Module, name: str) -> Iterable[tuple[str, BaseTunerLayer]]:
    for key, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer) and name in getattr(module, "r", {}):
            yield key, module


def _magnitudes(transformer: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Copies of a DoRA's magnitude vectors."""
    magnitudes = {}
    for key, module in _tuned(transformer, name):
        vectors = getattr(module, "lora_magnitude_vector", {})
        if name in vectors:
            magnitudes[key] = vectors[name].weight.detach().float().clone()
    return magnitudes


def _set_weights(transformer: CogVideoXTransformer3DModel, weights: dict[str, torch.Tensor], name: str) -> None:
    """Loads weights into an existing adapter.

    Raises:
        ValueError: keys are missing or unexpected.
    """
    result = set_peft_model_state_dict(transformer, weights, name)
    # All weights of the base are missing, too, as only the adapter is loaded.
    missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
    if missing or result.unexpected_keys:
        what = ", ".join([*result.unexpected_keys, *missing][:3])
        raise ValueError(f"{len(missing)} weights are missing and {len(result.unexpected_keys)} are unknown ({what})")


def _exactly(name: str) -> str:
    """A peft pattern that matches only this layer."""
    return f"^{re.escape(name)}"
