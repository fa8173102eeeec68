"""Loads the parts of a pipeline separately, so that only the used ones are in memory."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import T5EncoderModel, T5Tokenizer

from cogvx_exp.config.schema import Memory, Model
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import file_hash, fingerprint
from cogvx_exp.model.adapters.apply import Applied, apply_adapter, start_from
from cogvx_exp.model.adapters.strength import file_metadata
from cogvx_exp.model.build import SCHEDULERS, build_pipeline, built_folder
from cogvx_exp.model.device import Compute
from cogvx_exp.model.pipeline_files import AGAIN, check_same_architecture
from cogvx_exp.model.positions import drop_learned_positions
from cogvx_exp.model.quantization.quantize import quantize_block
from cogvx_exp.model.source import bundled_folder, pretrained_folder
from cogvx_exp.model.widening import is_widened, load_patch_weights, trained_patch_weights, widen
from cogvx_exp.runs.run_folder import ABOUT, PATCH_FILE, checkpoint_of, is_whole

HASHED_WHOLE = 64 << 20
"""Weight files up to this many bytes are hashed; larger ones are identified by name and size."""


def pipeline_folder(model: Model, cache_dir: Path) -> Path:
    """The folder of the pipeline, downloaded or built if necessary.

    Raises:
        UserError: pretrained weights cannot be found, or do not support the model's tasks.
    """
    if model.weights == "pretrained":
        return pretrained_folder(model)
    if model.weights == "bundled":
        return bundled_folder(model, cache_dir)
    folder = built_folder(model, cache_dir)
    if not folder.exists():
        console.print(f"Building {model.name} with random weights in {folder}", soft_wrap=True)
        build_pipeline(model, folder)
    return folder


def load_transformer(
    folder: Path,
    compute: Compute,
    *,
    in_channels: int | None = None,
    quant: str = "none",
    in_8_bits: bool = False,
    blocks_on_host: bool = False,
) -> CogVideoXTransformer3DModel:
    """Loads the transformer with frozen weights.

    Args:
        folder: the pipeline.
        compute: device and dtype.
        in_channels: input channels, if more than the checkpoint's: those of a condition.
        quant: quantization of the blocks' linear layers (`quant=NAME`), block by block, so that at most one unquantized
            block is on the device.
        in_8_bits: whether they also compute in 8 bits (`quant.compute=8bit`).
        blocks_on_host: keep the blocks in host memory (`memory.stream_blocks`).

    Raises:
        UserError: the folder is incomplete.
    """
    transformer = _read_whole(CogVideoXTransformer3DModel, folder / "transformer", torch_dtype=compute.dtype)
    widen(transformer, in_channels or transformer.config.in_channels)
    transformer.requires_grad_(False)
    for block in transformer.transformer_blocks if quant != "none" else []:
        quantize_block(block, quant, compute, in_8_bits=in_8_bits)
    if blocks_on_host:
        # The rest of the model is small and used in every pass, so only the blocks stay on the host.
        for name, part in transformer.named_children():
            if name != "transformer_blocks":
                part.to(compute.device)
        return transformer
    return transformer.to(compute.device)


def load_trained(
    transformer: CogVideoXTransformer3DModel,
    file: Path,
    compute: Compute,
    name: str = "trained",
    *,
    must_change: bool = False,
) -> CogVideoXTransformer3DModel:
    """Applies trained weights to their base: adds an adapter, or returns a fully trained transformer instead.

    Learned positions dropped in training are dropped here as well. Prints how many layers an adapter changes.

    Args:
        transformer: the base.
        file: an adapter's file, a checkpoint's weights, or the folder of a full transformer.
        compute: device and dtype.
        name: name of the adapter in the model.
        must_change: whether an adapter that changes no layer is an error.

    Raises:
        UserError: it belongs to another model, or changes nothing.
    """
    if file.is_dir():
        check_same_architecture(file, dict(transformer.config))
        return load_whole(file, compute)
    checkpoint = checkpoint_of(file)
    # In the manifest for checkpoints; exports are single files that must carry it themselves.
    about = checkpoint.get("about") or json.loads(file_metadata(file).get(ABOUT, "{}"))
    if about.get("learned_positions") == "dropped" and transformer.config.use_learned_positional_embeddings:
        drop_learned_positions(transformer)
    if patch := trained_patch_weights(file):
        load_patch_weights(transformer, patch)
    _check_channels(transformer, file, about)
    if is_whole(file):
        _load_weights(transformer, file)
        return transformer.requires_grad_(False)
    applied = apply_adapter(transformer, file, name)
    _print_effect(applied, file, must_change=must_change)
    return transformer.requires_grad_(False)


def _check_channels(transformer: CogVideoXTransformer3DModel, file: Path, about: dict[str, Any]) -> None:
    needed, found = about.get("in_channels"), transformer.config.in_channels
    if needed is not None and needed != found:
        way = f"keep {PATCH_FILE} next to it, or choose the image-to-video model it was trained on"
        task = about.get("task", {}).get("name", "another task")
        raise UserError(
            f"{file} was trained for task={task} with {needed} input channels, but this model has {found}; {way}"
        )


def load_whole(folder: Path, compute: Compute) -> CogVideoXTransformer3DModel:
    """Loads a fully fine-tuned transformer.

    Raises:
        UserError: the folder is incomplete.
    """
    trained: CogVideoXTransformer3DModel = _read_whole(CogVideoXTransformer3DModel, folder, torch_dtype=compute.dtype)
    return trained.requires_grad_(False).to(compute.device)


def load_adapter_weights(transformer: CogVideoXTransformer3DModel, file: Path) -> None:
    """Initializes an existing adapter from a LoRA file, at the same strength, and the patch embedding if it has one.

    Raises:
        UserError: the file has different layers or another rank, or is all zero.
    """
    patch = trained_patch_weights(file)
    if patch and not is_widened(transformer):
        raise UserError(f"{file} was trained with a condition, but this run has none or another base; use task=control")
    _print_effect(start_from(transformer, file), file, must_change=True)
    if patch:
        transformer.load_state_dict(patch, strict=False)


def _print_effect(applied: Applied, file: Path, *, must_change: bool) -> None:
    if must_change and not applied.changed:
        raise UserError(
            f"{file} changes none of its {applied.layers} layers ({applied.description}): its update is zero, as "
            "before training; choose a trained adapter"
        )
    console.print(
        f"{file} changes {applied.changed} of {applied.layers} layers ({applied.description})",
        soft_wrap=True,
        markup=False,
    )


def _load_weights(transformer: CogVideoXTransformer3DModel, file: Path) -> None:
    """Loads fully fine-tuned weights: all, or those of method.parameters."""
    current, weights = transformer.state_dict(), load_file(file)
    wrong = [key for key, weight in weights.items() if key not in current or current[key].shape != weight.shape]
    if wrong:
        raise UserError(f"{file} does not fit this model: {len(wrong)} of its weights do not match ({wrong[0]})")
    # Not strict, because method.parameters may have trained only a part; unknown keys were refused above.
    transformer.load_state_dict(weights, strict=False)
    console.print(f"{file} replaces {len(weights)} of {len(current)} weights", soft_wrap=True, markup=False)


def _read_whole(kind: Any, folder: Path, **settings: Any) -> Any:
    """Loads a model from its folder and checks that no weight is missing: it would be initialized randomly.

    Raises:
        UserError: a weight is missing or has another shape.
    """
    try:
        # use_safetensors, because loading a pickle can run arbitrary code.
        model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **settings)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". If you")[0]
        raise UserError(f"{folder} cannot be loaded: {reason}; {AGAIN}") from None
    lacks = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacks:
        raise UserError(f"{folder} is missing {len(lacks)} weights, such as {lacks[0]}; {AGAIN}")
    return model


def load_vae(folder: Path, compute: Compute, memory: Memory, image_scale: str = "auto") -> AutoencoderKLCogVideoX:
    """Loads the autoencoder with frozen weights.

    `image_scale` (task.image_scale) is stored in its configuration, which both training and the diffusers pipeline
    read.
    """
    vae = _read_whole(AutoencoderKLCogVideoX, folder / "vae", torch_dtype=compute.dtype)
    if memory.vae_slicing:
        vae.enable_slicing()
    if memory.vae_tiling:
        vae.enable_tiling()
    if image_scale != "auto":
        vae.register_to_config(invert_scale_latents=image_scale == "divide")
    if compute.device.type == "cpu":
        # Otherwise a third of the convolutions take a slow path in oneDNN; this makes encoding 1.2 times as fast.
        for parameter in vae.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae.requires_grad_(False).eval().to(compute.device)


def load_tokenizer(folder: Path) -> T5Tokenizer:
    """Loads the tokenizer."""
    return T5Tokenizer.from_pretrained(folder, subfolder="tokenizer")


def load_text_encoder(folder: Path, compute: Compute) -> tuple[T5Tokenizer, T5EncoderModel]:
    """Loads the tokenizer and the frozen T5 encoder."""
    encoder = _read_whole(T5EncoderModel, folder / "text_encoder", dtype=compute.dtype)
    return load_tokenizer(folder), encoder.requires_grad_(False).eval().to(compute.device)


def load_scheduler(folder: Path, name: str) -> Any:
    """Loads the checkpoint's noise schedule as the sampler `name` (ddim or dpm)."""
    return SCHEDULERS[name].from_pretrained(folder, subfolder="scheduler")


def identity(folder: Path, part: str) -> str:
    """A fingerprint of a part's configuration and weights, for cache keys."""
    files = sorted(path for path in (folder / part).iterdir() if path.is_file())
    return fingerprint({path.name: _file_identity(path) for path in files})


def _file_identity(path: Path) -> str:
    size = path.stat().st_size
    # The Hub's cache links each file to a blob named by its hash, so the name identifies the content.
    return path.resolve().name + str(size) if size > HASHED_WHOLE else file_hash(path)
