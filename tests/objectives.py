"""Parts of an objective, for tests that name them by their import paths."""

import torch


def always_seven(num_train_timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """The same timestep every time."""
    return torch.tensor([7])


def weight_by_signal(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Weighs nothing at the end of the schedule."""
    return alphas_cumprod


def one_half(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """An error that does not depend on what was predicted, but has a gradient."""
    return 0.5 + 0 * prediction.flatten(1).sum(1)
