"""Widens the patch embedding of a text-to-video transformer by the channels of a condition.

The new weights are zero, so the widened model computes what the base computes until they are trained. They are trained
with the adapter, and exported in a file of their own, because LoRA files have no place for whole weights.
"""

from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file

from cogvx_exp.core.errors import UserError
from cogvx_exp.runs.run_folder import CHECKPOINT_FILE, PATCH_FILE

PREFIX = "patch_embed.proj."
"""Prefix of the patch embedding's weights."""


def widen(transformer: CogVideoXTransformer3DModel, in_channels: int) -> None:
    """Widens the input to `in_channels` in place; the weights of the new channels are zero."""
    before = transformer.config.in_channels
    if in_channels == before:
        return
    layer = transformer.patch_embed.proj
    weight = layer.weight.data
    # CogVideoX 1.5 has a linear layer of patches flattened with the channels first, 1.0 a convolution.
    extra = weight.new_zeros(len(weight), weight[0].numel() // before * (in_channels - before))
    layer.weight.data = torch.cat([weight, extra.reshape(len(weight), -1, *weight.shape[2:])], dim=1)
    if isinstance(layer, torch.nn.Conv2d):
        layer.in_channels = in_channels
    else:
        layer.in_features = layer.weight.shape[1]
    transformer.register_to_config(in_channels=in_channels)
    transformer.widened = True


def is_widened(transformer: torch.nn.Module) -> bool:
    """Whether the transformer's input was widened; its patch embedding is then trained."""
    return bool(getattr(transformer, "widened", False))


def train_patch_embedding(transformer: CogVideoXTransformer3DModel) -> None:
    """Unfreezes the patch embedding of a widened transformer, next to an adapter.

    Raises:
        UserError: the adapter has weights there.
    """
    if not is_widened(transformer):
        return
    if not isinstance(transformer.patch_embed.proj, torch.nn.Linear | torch.nn.Conv2d):
        raise UserError("method.targets includes patch_embed.proj, which is trained whole here; remove it")
    transformer.patch_embed.proj.requires_grad_(True)


def trained_patch(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The patch embedding's weights that are trained, by name, on the host."""
    return {
        name: weight.detach().cpu().contiguous()
        for name, weight in transformer.named_parameters()
        if name.startswith(PREFIX) and weight.requires_grad
    }


def trained_patch_weights(file: Path) -> dict[str, torch.Tensor]:
    """The patch embedding trained with an adapter; empty if it was not.

    Args:
        file: the adapter's file, or a checkpoint's weights.
    """
    beside = file.parent / PATCH_FILE
    if file.name == CHECKPOINT_FILE:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys() if _is_patch(name)}  # noqa: SIM118
    return load_file(beside) if beside.is_file() else {}


def load_patch_weights(transformer: CogVideoXTransformer3DModel, weights: dict[str, torch.Tensor]) -> None:
    """Loads a trained patch embedding, and widens the transformer if necessary."""
    layer = transformer.patch_embed.proj
    values, before = weights[f"{PREFIX}weight"][0].numel(), layer.weight[0].numel()
    widen(transformer, transformer.config.in_channels * values // before)
    base = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    trained = {
        name.removeprefix(PREFIX): weight.to(base[name.removeprefix(PREFIX)]) for name, weight in weights.items()
    }
    transformer.patch_weights = base, trained
    set_patch_strength(transformer, 1.0)


@torch.no_grad()
def set_patch_strength(transformer: torch.nn.Module, strength: float) -> None:
    """Applies a loaded patch embedding like an adapter: 0 is the base, 1 as trained."""
    base, trained = getattr(transformer, "patch_weights", ({}, {}))
    for name, weight in trained.items():
        value = weight if strength == 1 else base[name] + strength * (weight - base[name])
        transformer.get_submodule(PREFIX.rstrip(".")).get_parameter(name).copy_(value)


def adapter_weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter's file without the patch embedding's, which a checkpoint has in the same file."""
    in_checkpoint = file.name == CHECKPOINT_FILE
    return {name: weight for name, weight in load_file(file).items() if not (in_checkpoint and _is_patch(name))}


def _is_patch(name: str) -> bool:
    return name.startswith(PREFIX) and "lora" not in name
