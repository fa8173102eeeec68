"""The training objective of CogVideoX.

With a = alphas_cumprod[t], clean latents x and noise e:

    noisy  = sqrt(a) x + sqrt(1 - a) e
    target = sqrt(a) e - sqrt(1 - a) x          (v-prediction, Salimans and Ho 2022, arXiv:2202.00512)
    loss   = mean((prediction - target)^2)

The reference recovers x from the prediction and weights its error by 1 / (1 - a). That is the same
number, but near t = 0 it multiplies rounding errors by about a thousand; the target does not. All of
it is float32: in bfloat16, a rounds to 1 for the first timesteps.
"""

import torch

Tensor = torch.Tensor


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noisy latents in float32. `alphas_cumprod`: the value of each sample's timestep, (B,)."""
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents.ndim)
    return alpha * latents.float() + sigma * noise.float()


def velocity(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the model has to predict, in float32. `alphas_cumprod`: (B,)."""
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents.ndim)
    return alpha * noise.float() - sigma * latents.float()


def velocity_loss(prediction: Tensor, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The loss of each sample, float32, (B,)."""
    error = prediction.float() - velocity(latents, noise, alphas_cumprod)
    return error.square().flatten(1).mean(1)


def _signal_and_noise(alphas_cumprod: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    alphas_cumprod = alphas_cumprod.float().reshape(-1, *[1] * (ndim - 1))
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
