"""Builds a pipeline of real diffusers and transformers classes from an architecture and a seed."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    ModelMixin,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from cogvx_exp.config.schema import Model
from cogvx_exp.config.schema.model import VaeArchitecture
from cogvx_exp.core.files import fingerprint, whole_folder

FORMAT = 1
"""Raise it when the same settings build other weights."""

LOG_VARIANCE = -12.0
"""Log-variance of the latents of a random VAE."""

SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
BUILT_FROM = {"native_dtype", "random_seed", "random_text_encoder", "tasks", "sampling"} | {
    "transformer",
    "vae",
    "text_encoder",
    "scheduler",
}


def built_folder(model: Model, cache_dir: Path) -> Path:
    """Where the random pipeline of this architecture and seed is, or will be."""
    made_from = {"format": FORMAT, **model.model_dump(include=BUILT_FROM)}
    return cache_dir / "models" / f"{model.name}-random-{fingerprint(made_from)[:12]}"


def build_pipeline(
    model: Model, folder: Path, words: Sequence[str] = (), trained: Mapping[str, ModelMixin] | None = None
) -> None:
    """Writes a pipeline with random weights, as `from_pretrained` reads it, into `folder`.

    The same settings give the same weights. The weights are made in the model's native type, so that
    a 5b needs 11 GiB of memory and not 22.

    Args:
        model: its architecture and its seed.
        folder: where it is written.
        words: what the tokenizer knows besides single characters.
        trained: parts that are not to be random, by their names in the pipeline: vae, transformer.
    """
    dtype = getattr(torch, model.native_dtype)
    # The classes read the default dtype, which is process-wide, so it must be restored even after an error.
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(model.random_seed)
        torch.set_default_dtype(dtype)
        try:
            parts = {"transformer": build_transformer(model), "vae": _build_vae(model), **(trained or {})}
            # In this order, because each part continues the random numbers of the one before it.
            text_encoder = _build_text_encoder(model)
        finally:
            torch.set_default_dtype(before)
    pipeline_class = CogVideoXImageToVideoPipeline if "i2v" in model.tasks else CogVideoXPipeline
    pipeline = pipeline_class(
        tokenizer=_build_tokenizer(words),
        text_encoder=text_encoder,
        **parts,
        scheduler=SCHEDULERS[model.sampling.scheduler](
            **model.scheduler.model_dump(),
            prediction_type="v_prediction",
            # The schedule of the released checkpoints: without it, the last timestep would still show a trace of the
            # video.
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
        ),
    )
    with whole_folder(folder) as tmp:
        pipeline.save_pretrained(tmp)


def build_transformer(model: Model) -> CogVideoXTransformer3DModel:
    """A random transformer, in torch's default type."""
    return CogVideoXTransformer3DModel(**model.transformer.model_dump())


def vae_arguments(architecture: VaeArchitecture) -> dict[str, Any]:
    """Arguments of AutoencoderKLCogVideoX."""
    levels = len(architecture.block_out_channels)
    return {
        **architecture.model_dump(),
        "down_block_types": ("CogVideoXDownBlock3D",) * levels,
        "up_block_types": ("CogVideoXUpBlock3D",) * levels,
    }


def _build_vae(model: Model) -> AutoencoderKLCogVideoX:
    vae = AutoencoderKLCogVideoX(**vae_arguments(model.vae))
    # A trained encoder is all but certain of its latents. With the usual initialization they would
    # have unit variance around small means, and there would be nothing to learn.
    last = vae.encoder.conv_out.conv
    with torch.no_grad():
        last.weight[model.vae.latent_channels :] = 0
        last.bias[model.vae.latent_channels :] = LOG_VARIANCE
    return vae


def _build_text_encoder(model: Model) -> T5EncoderModel:
    sizes = {**model.text_encoder.model_dump(), **model.random_text_encoder.model_dump()}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)).eval()


def _build_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """A T5 tokenizer that spells what it does not know: one token a character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    characters = string.ascii_letters + string.digits + string.punctuation
    whole = [(f"▁{word}", -1.0) for word in words]
    return T5Tokenizer(vocab=special + [(character, -3.0) for character in characters] + whole, extra_ids=0)
