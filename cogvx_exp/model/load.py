"""Loads the parts of a pipeline one at a time, so that no more is in memory than is used."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5EncoderModel, T5Tokenizer

from cogvx_exp.config.schema import Memory, Model
from cogvx_exp.errors import UserError
from cogvx_exp.files import file_hash, fingerprint, read_json
from cogvx_exp.model.build import SCHEDULERS, build_pipeline, built_folder
from cogvx_exp.model.device import Compute
from cogvx_exp.model.source import pretrained_folder

HASHED_WHOLE = 64 << 20
"""Weight files up to this many bytes are hashed whole; of larger ones, name and size count."""


def pipeline_folder(model: Model, cache_dir: Path) -> Path:
    """The folder of the pipeline, downloaded or built first if need be.

    Raises:
        UserError: pretrained weights cannot be found, or cannot do a task the model claims.
    """
    if model.weights == "pretrained":
        return pretrained_folder(model)
    folder = built_folder(model, cache_dir)
    if not folder.exists():
        print(f"Building {model.name} with random weights in {folder}")
        build_pipeline(model, folder)
    return folder


def load_transformer(folder: Path, compute: Compute, task: str) -> CogVideoXTransformer3DModel:
    """Loads the denoiser with frozen weights.

    Raises:
        UserError: its input channels do not fit the task.
    """
    channels = read_json(folder / "transformer" / "config.json")
    needed = channels["out_channels"] * (2 if task == "i2v" else 1)
    if channels["in_channels"] != needed:
        raise UserError(
            f"task={task} needs a transformer with {needed} input channels, but the one in {folder} has "
            f"{channels['in_channels']}; choose a model for this task"
        )
    transformer = CogVideoXTransformer3DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=compute.dtype, use_safetensors=True
    )
    return transformer.requires_grad_(False).to(compute.device)


def load_adapter(transformer: CogVideoXTransformer3DModel, file: Path, strength: float) -> None:
    """Adds a LoRA file to a transformer, at `strength` times the strength it was trained with.

    Raises:
        UserError: it belongs to another model.
    """
    weights, metadata = CogVideoXPipeline.lora_state_dict(
        str(file.parent), weight_name=file.name, use_safetensors=True, return_lora_metadata=True
    )
    try:
        CogVideoXPipeline.load_lora_into_transformer(weights, transformer, adapter_name="adapter", metadata=metadata)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file} does not fit this model: {str(error).splitlines()[0]}") from None
    transformer.set_adapters(["adapter"], [strength])


def load_vae(folder: Path, compute: Compute, memory: Memory) -> AutoencoderKLCogVideoX:
    """Loads the autoencoder with frozen weights."""
    vae = AutoencoderKLCogVideoX.from_pretrained(
        folder, subfolder="vae", torch_dtype=compute.dtype, use_safetensors=True
    )
    if memory.vae_slicing:
        vae.enable_slicing()
    if memory.vae_tiling:
        vae.enable_tiling()
    if compute.device.type == "cpu":
        # Without this, oneDNN leaves a third of the convolutions to a slow path: 1.2 times as fast with it.
        for parameter in vae.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae.requires_grad_(False).eval().to(compute.device)


def load_tokenizer(folder: Path) -> T5Tokenizer:
    """Loads the tokenizer."""
    return T5Tokenizer.from_pretrained(folder, subfolder="tokenizer")


def load_text_encoder(folder: Path, compute: Compute) -> tuple[T5Tokenizer, T5EncoderModel]:
    """Loads the tokenizer and the frozen T5 encoder."""
    encoder = T5EncoderModel.from_pretrained(
        folder, subfolder="text_encoder", dtype=compute.dtype, use_safetensors=True
    )
    return load_tokenizer(folder), encoder.requires_grad_(False).eval().to(compute.device)


def load_scheduler(folder: Path, name: str) -> Any:
    """Loads the checkpoint's noise schedule into the sampler `name` (ddim or dpm)."""
    return SCHEDULERS[name].from_pretrained(folder, subfolder="scheduler")


def identity(folder: Path, part: str) -> str:
    """A fingerprint of one part's configuration and weights, for keys of caches."""
    files = sorted(path for path in (folder / part).iterdir() if path.is_file())
    return fingerprint({path.name: _file_identity(path) for path in files})


def _file_identity(path: Path) -> str:
    size = path.stat().st_size
    # The Hub's cache links each file to a blob named by its hash.
    return path.resolve().name + str(size) if size > HASHED_WHOLE else file_hash(path)
