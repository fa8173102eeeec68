"""One training forward pass: from a batch to the loss of each sample."""

from collections.abc import Callable

import torch

from cogvx_exp.data.samples import Batch
from cogvx_exp.diffusion.objective import add_noise, velocity_loss
from cogvx_exp.model.positions import rotary_positions

Loss = Callable[[torch.nn.Module, Batch], torch.Tensor]


def denoising_loss(alphas_cumprod: torch.Tensor, config: dict, dtype: torch.dtype) -> Loss:
    """The function of (transformer, batch) that gives the loss of each sample, float32, (B,).

    Args:
        alphas_cumprod: the noise schedule the checkpoint was trained with, (timesteps,).
        config: the transformer's configuration.
        dtype: type of the transformer's input.
    """

    def loss(transformer: torch.nn.Module, batch: Batch) -> torch.Tensor:
        alphas = alphas_cumprod[batch.timesteps]
        frames, _, height, width = batch.latents.shape[1:]
        prediction = transformer(
            hidden_states=add_noise(batch.latents, batch.noise, alphas).to(dtype),
            encoder_hidden_states=batch.prompt_embeds.to(dtype),
            timestep=batch.timesteps,
            image_rotary_emb=rotary_positions(config, (frames, height, width), batch.latents.device),
            return_dict=False,
        )[0]
        return velocity_loss(prediction, batch.latents, batch.noise, alphas)

    return loss
