"""Optimizers and learning-rate schedules."""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from hydra.utils import get_class
from torch.optim.lr_scheduler import LRScheduler

from cogvx_exp.config.schema import LrScheduler, Optim
from cogvx_exp.errors import UserError


def build_optimizer(parameters: Iterable[torch.nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    """Builds the class `optim.target` with those of the common settings that its YAML has.

    Raises:
        UserError: the class cannot be imported, or does not take the settings.
    """
    settings: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    optional = {"betas": optim.betas, "eps": optim.eps}
    settings |= {name: value for name, value in optional.items() if value is not None}
    try:
        optimizer: torch.optim.Optimizer = get_class(optim.target)(list(parameters), **settings)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"optim={optim.name}: {optim.target} cannot be built: {error}") from None
    return optimizer


def build_lr_scheduler(optimizer: torch.optim.Optimizer, settings: LrScheduler, steps: int) -> LRScheduler:
    """Builds the schedule over `steps` optimizer steps (diffusers.optimization.get_scheduler)."""
    optional = {"num_cycles": settings.num_cycles, "power": settings.power}
    return get_scheduler(
        settings.name,
        optimizer=optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=steps,
        **{name: value for name, value in optional.items() if value is not None},
    )
