"""Rotary positions, as the diffusers pipelines compute them."""

from functools import lru_cache

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

Rotary = tuple[torch.Tensor, torch.Tensor]


def rotary_positions(config: dict, latent_shape: tuple[int, int, int], device: torch.device) -> Rotary | None:
    """Cosines and sines for latents of (frames, height, width), each (tokens, head_dim); None for sin-cos models.

    CogVideoX 1.0 takes a resized crop of its native grid; 1.5 takes integer positions.
    Computed once for each shape.
    """
    if not config["use_rotary_positional_embeddings"]:
        return None
    keys = ("attention_head_dim", "patch_size", "patch_size_t", "sample_height", "sample_width")
    return _rotary(*(config[key] for key in keys), latent_shape, device)


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
        crop = get_resize_crop_region_for_grid(grid, sample_width // patch_size, sample_height // patch_size)
        return get_3d_rotary_pos_embed(
            embed_dim=head_dim, crops_coords=crop, grid_size=grid, temporal_size=frames, device=device
        )
    return get_3d_rotary_pos_embed(
        embed_dim=head_dim,
        crops_coords=None,
        grid_size=grid,
        temporal_size=-(-frames // patch_size_t),
        grid_type="slice",
        max_size=grid,
        device=device,
    )
