"""Positions, as the diffusers pipelines compute them, and learned positions, which fit one shape only."""

from collections.abc import Iterable
from functools import lru_cache

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

from cogvx_exp.data.buckets import Bucket

Rotary = tuple[torch.Tensor, torch.Tensor]


def rotary_positions(config: dict, latent_shape: tuple[int, int, int], device: torch.device) -> Rotary | None:
    """Cosines and sines for latents of (frames, height, width), each (tokens, head_dim); None for sin-cos models.

    CogVideoX 1.0 takes a resized crop of its native grid; 1.5 takes integer positions.
    Computed once for each shape.
    """
    if not config["use_rotary_positional_embeddings"]:
        return None
    keys = ("attention_head_dim", "patch_size", "patch_size_t", "sample_height", "sample_width")
    # Only hashable values reach the cached function: the configuration itself is a dict.
    return _rotary(*(config[key] for key in keys), latent_shape, device)


def forget_rotary_positions() -> None:
    """Empties the store of what was computed."""
    _rotary.cache_clear()


@lru_cache(maxsize=64)
def _rotary(
    head_dim: int,
    patch_size: int,
    patch_size_t: int | None,
    sample_height: int,
    sample_width: int,
    latent_shape: tuple[int, int, int],
    device: torch.device,
) -> Rotary:
    frames, grid = latent_shape[0], (latent_shape[1] // patch_size, latent_shape[2] // patch_size)
    if patch_size_t is None:
        # Positions stay in the range of the native resolution, so a model sees no unknown ones at other sizes.
        crop = get_resize_crop_region_for_grid(grid, sample_width // patch_size, sample_height // patch_size)
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=head_dim, crops_coords=crop, grid_size=grid, temporal_size=frames, device=device
        )
    else:
        # The grid is taken from the actual size, not cut from the native one: portrait would not fit in that.
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=head_dim,
            crops_coords=None,
            grid_size=grid,
            temporal_size=-(-frames // patch_size_t),
            grid_type="slice",
            max_size=grid,
            device=device,
        )
    # Not views: compiled code would depend on the shape of what they are views of.
    return cos.clone(), sin.clone()


def fits_learned_positions(config: dict, shapes: Iterable[Bucket], scale: int) -> bool:
    """Whether a model has no learned positions, or all shapes are the one they fit; `scale`: pixels of a latent."""
    # Learned positions are a table with one row per token, so every dimension must match.
    native = (config["sample_frames"], config["sample_height"] * scale, config["sample_width"] * scale)
    if not config["use_learned_positional_embeddings"]:
        return True
    return all((shape.num_frames, shape.height, shape.width) == native for shape in shapes)


def drop_learned_positions(transformer: CogVideoXTransformer3DModel) -> None:
    """Takes the learned positions out, so that the model takes any shape; the rotary ones stay."""
    # A persistent buffer: left in place, it would be saved with the model and added again by whoever loads it.
    del transformer.patch_embed.pos_embedding
    transformer.patch_embed.use_learned_positional_embeddings = False
    transformer.register_to_config(use_learned_positional_embeddings=False)
