"""The training forward pass: from a batch to the loss of each sample."""

from collections.abc import Callable
from typing import Any

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.objective import Objective, add_noise
from cogvx_exp.model.positions import rotary_positions

OFS = 2.0
"""The only value of this input that CogVideoX1.5-5B-I2V was trained with."""

Loss = Callable[[torch.nn.Module, Batch], torch.Tensor]


def denoising_loss(
    alphas_cumprod: torch.Tensor, config: dict, dtype: torch.dtype, objective: Objective | None = None
) -> Loss:
    """A function of (transformer, batch) that returns the loss of each sample, float32, (B,).

    Args:
        alphas_cumprod: the noise schedule the checkpoint was trained with, (timesteps,).
        config: the transformer's configuration.
        dtype: dtype of the transformer's inputs.
        objective: defaults to that of the CogVideoX authors.
    """
    objective = objective or Objective()

    def loss(transformer: torch.nn.Module, batch: Batch) -> torch.Tensor:
        # Indexed on the device: reading the timesteps on the host would synchronize.
        alphas = alphas_cumprod[batch.timesteps]
        noisy = add_noise(batch.latents, batch.noise, alphas)
        prediction = transformer(**model_inputs(noisy, batch, config, dtype), return_dict=False)[0]
        return objective.loss(prediction, batch.latents, batch.noise, alphas)

    return loss


def model_inputs(noisy: torch.Tensor, batch: Batch, config: dict, dtype: torch.dtype) -> dict[str, Any]:
    """The transformer's inputs, matching the diffusers pipelines.

    Args:
        noisy: noisy latents, (B, F, C, H, W).
        batch: the other inputs.
        config: the transformer's configuration.
        dtype: dtype of the transformer's inputs.
    """
    frames, _, height, width = noisy.shape[1:]
    # Noise is added in float32 (see `objective`); only the transformer's inputs have the model's dtype.
    hidden_states = noisy if batch.condition is None else torch.cat([noisy, batch.condition], dim=2)
    return {
        "hidden_states": hidden_states.to(dtype),
        # Cached embeddings may have another dtype, such as those that were encoded elsewhere.
        "encoder_hidden_states": batch.prompt_embeds.to(dtype),
        "timestep": batch.timesteps,
        "ofs": noisy.new_full((1,), OFS).to(dtype) if config["ofs_embed_dim"] else None,
        "image_rotary_emb": rotary_positions(config, (frames, height, width), noisy.device),
    }
