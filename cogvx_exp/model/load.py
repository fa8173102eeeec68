"""Loads the parts of a pipeline one at a time, so that no more is in memory than is used."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from peft import PeftConfig, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import T5EncoderModel, T5Tokenizer

from cogvx_exp.config.schema import Memory, Model
from cogvx_exp.errors import UserError
from cogvx_exp.files import file_hash, fingerprint, read_json
from cogvx_exp.model.build import SCHEDULERS, build_pipeline, built_folder
from cogvx_exp.model.device import Compute
from cogvx_exp.model.positions import drop_learned_positions
from cogvx_exp.model.quantize import quantize_block
from cogvx_exp.model.source import pretrained_folder, shipped_folder
from cogvx_exp.tracking.run_folder import ABOUT, PEFT_FILE

HASHED_WHOLE = 64 << 20
"""Weight files up to this many bytes are hashed whole; of larger ones, name and size count."""


def pipeline_folder(model: Model, cache_dir: Path) -> Path:
    """The folder of the pipeline, downloaded or built first if need be.

    Raises:
        UserError: pretrained weights cannot be found, or cannot do a task the model claims.
    """
    if model.weights == "pretrained":
        return pretrained_folder(model)
    if model.weights == "shipped":
        return shipped_folder(model, cache_dir)
    folder = built_folder(model, cache_dir)
    if not folder.exists():
        print(f"Building {model.name} with random weights in {folder}")
        build_pipeline(model, folder)
    return folder


def load_transformer(
    folder: Path, compute: Compute, task: str, *, quant: str = "none", blocks_on_host: bool = False
) -> CogVideoXTransformer3DModel:
    """Loads the denoiser with frozen weights.

    Args:
        folder: the pipeline.
        compute: device and type.
        task: t2v or i2v.
        quant: storage of the blocks' linear layers (`quant=NAME`); never more than one block is on the device in
            its own type.
        blocks_on_host: leave the blocks in host memory (`memory.stream_blocks`).

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
    transformer.requires_grad_(False)
    for block in transformer.transformer_blocks if quant != "none" else []:
        quantize_block(block, quant, compute)
    if blocks_on_host:
        for name, part in transformer.named_children():
            if name != "transformer_blocks":
                part.to(compute.device)
        return transformer
    return transformer.to(compute.device)


def load_trained(
    transformer: CogVideoXTransformer3DModel, file: Path, compute: Compute, name: str = "trained"
) -> CogVideoXTransformer3DModel:
    """Puts what a run has trained on its base: adds an adapter, or gives back the trained transformer instead.

    Learned positions that were dropped in training are dropped here, too.

    Raises:
        UserError: it belongs to another model.
    """
    if file.is_dir():
        return load_whole(file, compute)
    about = json.loads(file_metadata(file).get(ABOUT, "{}"))
    if about.get("learned_positions") == "dropped" and transformer.config.use_learned_positional_embeddings:
        drop_learned_positions(transformer)
    try:
        if file.name == PEFT_FILE:
            transformer.add_adapter(PeftConfig.from_pretrained(file.parent), name)
            weights = {key.removeprefix("base_model.model."): weight for key, weight in load_file(file).items()}
            _check(set_peft_model_state_dict(transformer, weights, name), name)
        else:
            lora, metadata = CogVideoXPipeline.lora_state_dict(
                str(file.parent), weight_name=file.name, use_safetensors=True, return_lora_metadata=True
            )
            CogVideoXPipeline.load_lora_into_transformer(lora, transformer, adapter_name=name, metadata=metadata)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{file} does not fit this model: {str(error).splitlines()[0]}") from None
    return transformer.requires_grad_(False)


def load_whole(folder: Path, compute: Compute) -> CogVideoXTransformer3DModel:
    """Loads a transformer all of whose weights were trained."""
    trained = CogVideoXTransformer3DModel.from_pretrained(folder, torch_dtype=compute.dtype, use_safetensors=True)
    return trained.requires_grad_(False).to(compute.device)


def load_adapter_weights(transformer: CogVideoXTransformer3DModel, file: Path) -> None:
    """Lets an adapter that is there already start from the weights of a LoRA file.

    Raises:
        UserError: the file has other layers or another rank.
    """
    weights = {key.removeprefix("transformer."): weight for key, weight in load_file(file).items()}
    try:
        _check(set_peft_model_state_dict(transformer, weights, "default"), "default")
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"method.init_from={file} does not fit: {reason}; use its rank and its targets") from None


def _check(result: Any, name: str) -> None:
    missing = [key for key in result.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
    if missing or result.unexpected_keys:
        raise ValueError(f"{len(missing)} weights are missing and {len(result.unexpected_keys)} are unknown")


def file_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def load_vae(folder: Path, compute: Compute, memory: Memory, image_scale: str = "auto") -> AutoencoderKLCogVideoX:
    """Loads the autoencoder with frozen weights.

    `image_scale` (task.image_scale) is written into its configuration, where training and the diffusers
    pipeline both look.
    """
    vae = AutoencoderKLCogVideoX.from_pretrained(
        folder, subfolder="vae", torch_dtype=compute.dtype, use_safetensors=True
    )
    if memory.vae_slicing:
        vae.enable_slicing()
    if memory.vae_tiling:
        vae.enable_tiling()
    if image_scale != "auto":
        vae.register_to_config(invert_scale_latents=image_scale == "divide")
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
