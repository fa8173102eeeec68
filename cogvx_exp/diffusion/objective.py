"""The training objective of CogVideoX.

With a = alphas_cumprod[t], clean latents x and noise e:

    noisy  = sqrt(a) x + sqrt(1 - a) e
    target = sqrt(a) e - sqrt(1 - a) x          (v-prediction, Salimans and Ho 2022, arXiv:2202.00512)
    loss   = mean((prediction - target)^2)

The reference implementation recovers x from the prediction and weights its error by 1 / (1 - a). Mathematically that is
the same, but near t = 0 it amplifies rounding errors about a thousandfold; comparing velocities does not. Everything is
computed in float32: in bfloat16, a rounds to 1 at the first timesteps, which leaves no noise there. At the last
timestep a is 0 (zero terminal SNR): the input is pure noise, so predicting e would be trivial there, but v is still -x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hydra.errors import HydraException
from hydra.utils import get_method

from cogvx_exp.config.schema import Objective as Settings
from cogvx_exp.core.errors import UserError

Tensor = torch.Tensor


TimestepSampler = Callable[[int, torch.Generator], Tensor]
"""Draws the timestep of one sample, (1,), given the number of timesteps."""


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noisy latents in float32. `alphas_cumprod`: at each sample's timestep, (B,)."""
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents.ndim)
    return alpha * latents.float() + sigma * noise.float()


def velocity(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The prediction target v, in float32. `alphas_cumprod`: at each sample's timestep, (B,)."""
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents.ndim)
    return alpha * noise.float() - sigma * latents.float()


def uniform(num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Draws the timestep of one sample, (1,), uniformly from the schedule."""
    # One sample at a time with its own generator, so that a batch's composition does not change anyone's timestep.
    return torch.randint(num_train_timesteps, (1,), generator=generator)


def unweighted(alphas_cumprod: Tensor) -> Tensor:
    """Equal weights for all samples, (B,). `alphas_cumprod`: at each sample's timestep, (B,)."""
    return torch.ones_like(alphas_cumprod, dtype=torch.float32)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, float32, (B,)."""
    # Mean over values, then over samples: with several shapes, every clip counts the same.
    return (prediction - target).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Objective:
    """The training objective: three replaceable functions (`objective=NAME`)."""

    timesteps: TimestepSampler = uniform
    """Draws a sample's timestep."""
    weighting: Callable[[Tensor], Tensor] = unweighted
    """Weights of the samples' errors."""
    error: Callable[[Tensor, Tensor], Tensor] = squared_error
    """Errors between predictions and targets, both float32, (B, F, C, H, W)."""

    def loss(self, prediction: Tensor, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        """The loss of each sample, float32, (B,)."""
        # In float32: bfloat16 has two to three digits, and a difference of close values fewer.
        error = self.error(prediction.float(), velocity(latents, noise, alphas_cumprod))
        return self.weighting(alphas_cumprod) * error


def build_objective(settings: Settings) -> Objective:
    """Builds the configured objective.

    Raises:
        UserError: a function cannot be imported.
    """

    def function(setting: str) -> Callable:
        path = getattr(settings, setting)
        try:
            return get_method(path)
        except (HydraException, ImportError, ValueError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"objective.{setting}={path} cannot be imported: {reason}") from None

    return Objective(function("timesteps"), function("weighting"), function("error"))


def _signal_and_noise(alphas_cumprod: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    alphas_cumprod = alphas_cumprod.float().reshape(-1, *[1] * (ndim - 1))
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
