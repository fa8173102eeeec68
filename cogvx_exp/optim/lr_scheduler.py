"""Builds learning-rate schedules."""

import torch
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from cogvx_exp.config.schema import LrScheduler
from cogvx_exp.core.errors import UserError

POLYNOMIAL_END = 1e-7
"""Final learning rate of the polynomial schedule, as in diffusers."""


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, settings: LrScheduler, steps: int, done: int = 0
) -> LRScheduler:
    """Builds the schedule over `steps` optimizer steps (diffusers.optimization.get_scheduler).

    Args:
        optimizer: its groups have the peak learning rate in `initial_lr`, or in `lr` if they never had a schedule.
        settings: shape of the schedule.
        steps: optimizer steps of the whole run.
        done: completed steps; the groups get the learning rate of the next one.

    Raises:
        UserError: the learning rate is too low for the polynomial schedule.
    """
    if settings.name == "polynomial":
        scheduler = _polynomial(optimizer, settings, steps, done)
    else:
        optional = {"num_cycles": settings.num_cycles, "power": settings.power}
        scheduler = get_scheduler(
            settings.name,
            optimizer=optimizer,
            num_warmup_steps=settings.warmup_steps,
            num_training_steps=steps,
            # torch's schedulers take one step when they are built, which sets the rate of step `done`.
            last_epoch=done - 1,
            **{name: value for name, value in optional.items() if value is not None},
        )
    scheduler._step_count = done + 1  # as if it had run from the start
    return scheduler


def _polynomial(optimizer: torch.optim.Optimizer, settings: LrScheduler, steps: int, done: int) -> LRScheduler:
    """diffusers' `get_polynomial_decay_schedule_with_warmup` without two problems: it reads the learning rate from the
    class's defaults, which some classes lack, and divides by zero if the warm-up lasts the whole run.
    """
    group = optimizer.param_groups[0]
    peak = float(group.get("initial_lr", group["lr"]))
    if peak <= POLYNOMIAL_END:
        raise UserError(
            f"lr_scheduler=polynomial decays to {POLYNOMIAL_END:g}, but optim.lr={peak:g} is not above that; "
            "raise optim.lr, or use lr_scheduler=constant"
        )
    warmup, power = settings.warmup_steps or 0, settings.power or 1.0

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        if step > steps:
            return POLYNOMIAL_END / peak
        remaining = 1 - (step - warmup) / max(steps - warmup, 1)
        return ((peak - POLYNOMIAL_END) * remaining**power + POLYNOMIAL_END) / peak

    # A factor of each group's own peak, so groups with different rates keep their ratio.
    return LambdaLR(optimizer, share, last_epoch=done - 1)
