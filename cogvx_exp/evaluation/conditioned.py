"""Sampling with a condition video, for every model and sampler.

CogVideoXFunControlPipeline takes DDIM only, no padding of CogVideoX 1.5 and no `ofs`. The text-to-video pipeline has
the former two; the condition and `ofs` are added to the transformer's input here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.control.hiding import masked
from cogvx_exp.data.control.reading import read_control
from cogvx_exp.data.control.recipes import HIDDEN_BY, parse_control
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.diffusion.denoise import OFS
from cogvx_exp.diffusion.latents import LatentSpace
from cogvx_exp.latents.encode import encode_videos, to_pixels
from cogvx_exp.media.video import ClipError
from cogvx_exp.tasks.condition_video import condition_latents


def condition_frames(control: str, times: tuple[float, ...] | None, bucket: Bucket, mode: str) -> np.ndarray:
    """A condition video: uint8, (frames, height, width, 3).

    Args:
        control: `VIDEO` or `RECIPE of VIDEO`, as in `generate.controls`.
        times: times of its frames in seconds; None: spread over the video.
        bucket: shape of the video.
        mode: data.reshape. Random crops of training become center crops.

    Raises:
        UserError: it cannot be read.
    """
    fit = ResizeSpec("center" if mode == "random" else mode)

    def read(path: str) -> np.ndarray:
        try:
            return read_control(path, bucket.num_frames, times, bucket, fit)
        except ClipError as error:
            raise UserError(f"the control video {path} {error}") from None

    if found := HIDDEN_BY.fullmatch(control):
        return masked(read(found["clip"]), read(found["mask"]))
    recipe, path = parse_control(control)
    return recipe.apply(read(path)) if recipe else read(path)


@torch.no_grad()
def encode_condition(frames: np.ndarray, vae: Any, transformer_config: Any) -> torch.Tensor:
    """Latents of a condition video, (1, F, C, H, W), equal to those in training."""
    space = LatentSpace(vae.config.scaling_factor, transformer_config.patch_size_t, 0)
    return condition_latents(encode_videos(to_pixels([frames], vae.device), vae)[0], space)[None]


@contextmanager
def condition_added(transformer: torch.nn.Module, latents: torch.Tensor) -> Iterator[None]:
    """Inside the block, the transformer's input is what it is given and these latents, (1, F, C, H, W)."""

    def concatenate(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        noisy = named["hidden_states"]
        condition = latents.to(noisy).expand(len(noisy), *latents.shape[1:])
        ofs = {"ofs": noisy.new_full((1,), OFS)} if module.config.ofs_embed_dim else {}
        return arguments, {**named, "hidden_states": torch.cat([noisy, condition], dim=2), **ofs}

    hook = transformer.register_forward_pre_hook(concatenate, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
