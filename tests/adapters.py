"""Tiny models with adapters as after training, and the tensors of their exports."""

import re
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file

from cogvx_exp.config.schema import Method, TrainJob
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.build import build_transformer
from cogvx_exp.model.device import Compute
from cogvx_exp.model.positions import rotary_positions
from cogvx_exp.training.export import export

HOST = Compute(torch.device("cpu"), torch.float32)
Tensors = dict[str, torch.Tensor]
LAYERS = 8
"""Of the tiny-5b: to_q, to_k, to_v and to_out.0 of two blocks."""
RANK, ALPHA = 4, 12.0


def new_model(job: TrainJob) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    return build_transformer(job.model).requires_grad_(False).eval()


def output(transformer: CogVideoXTransformer3DModel) -> torch.Tensor:
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    with torch.no_grad():
        return transformer(
            torch.randn(1, 3, config.in_channels, 4, 6, generator=generator),
            torch.randn(1, 8, config.text_embed_dim, generator=generator),
            torch.tensor([500]),
            image_rotary_emb=rotary_positions(dict(config), (3, 4, 6), torch.device("cpu")),
            return_dict=False,
        )[0]


def trained_model(job: TrainJob, **changes: object) -> tuple[CogVideoXTransformer3DModel, Method]:
    """A model whose adapter has weights as after training."""
    method = Method.model_validate({**job.method.model_dump(), **changes})
    model = new_model(job)
    make_trainable(model, method, 0)
    generator = torch.Generator().manual_seed(2)
    for parameter in trainable_parameters(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), method


def exported_lora(job: TrainJob, folder: Path) -> Path:
    """The export of a LoRA of rank 4 and alpha 12."""
    model, method = trained_model(job)
    return export(model, method, folder, torch.float32, {})


def raw_tensors(lora: Path) -> Tensors:
    """The trained tensors with no scale in them: lora_B is a third of the exported one. Keys: LAYER.lora_A.weight."""
    weights = {name.removeprefix("transformer."): weight for name, weight in load_file(lora).items()}
    return {name: weight / (ALPHA / RANK) if "lora_B" in name else weight for name, weight in weights.items()}


def renamed(raw: Tensors, pattern: str, *pairs: tuple[str, str]) -> Tensors:
    """The tensors with the layer's name and the ending put into a pattern, after replacements."""
    found = {}
    for key, weight in raw.items():
        layer, half = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key).groups()
        for old, new in pairs:
            layer = layer.replace(old, new)
        found[pattern.format(layer=layer, half=half, way={"A": "down", "B": "up"}[half])] = weight
    return found


def kohya(raw: Tensors) -> Tensors:
    named = renamed(raw, "lora_unet_{layer}.lora_{way}.weight", (".", "_"))
    alphas = {key.replace(".lora_down.weight", ".alpha"): torch.tensor(ALPHA) for key in named if "down" in key}
    return named | alphas
