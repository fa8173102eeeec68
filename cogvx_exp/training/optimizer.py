"""Optimizers and learning-rate schedules."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from hydra.utils import get_class
from torch.optim.lr_scheduler import LRScheduler

from cogvx_exp.config.schema import LrScheduler, Optim
from cogvx_exp.errors import UserError
from cogvx_exp.tracking.progress import console
from cogvx_exp.training.released import ReleasedGradients

PAGED_STATES = {"state1", "state2"}
"""What bitsandbytes' optimizers keep for each value, and have in paged memory."""

Groups = list[dict[str, Any]]


@runtime_checkable
class HoldsGradients(Protocol):
    """An optimizer whose gradients are not in `parameter.grad` when a step begins."""

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients down to `max_norm` and returns their global norm before."""


def build_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], optim: Optim, device: torch.device, lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """Builds the class `optim.target` with those of the common settings that its YAML has.

    Args:
        parameters: the trained parameters by name.
        optim: the settings.
        device: where the parameters are.
        lr_factor: what `optim.scale_lr` multiplies the learning rate by.

    Raises:
        UserError: the class cannot be imported, or does not take the settings.
    """
    groups = parameter_groups(parameters, optim, optim.lr * (lr_factor if optim.scale_lr else 1.0))
    try:
        make = _constructor(optim, device)
        if optim.release_gradients:
            return ReleasedGradients(groups, make)
        if optim.offload and device.type == "cuda":
            from cogvx_exp.training.offloaded import OffloadedOptimizer

            keywords = {"optimizer_class": make, "offload_gradients": optim.offload_gradients}
            return OffloadedOptimizer(groups, **keywords)
        if optim.offload:
            console.print(f"optim={optim.name}: there is no GPU to free, so {optim.target} runs on the CPU as it is")
        optimizer = make(groups)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"optim={optim.name}: {optim.target} cannot be built: {error}") from None
    if hasattr(optimizer, "train"):  # schedule-free optimizers have two sets of weights
        optimizer.train()
    return optimizer


def parameter_groups(parameters: Mapping[str, torch.nn.Parameter], optim: Optim, lr: float) -> Groups:
    """Parameter groups with their own weight decay, and with the flag for matrices if the class wants one."""
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in parameters.values():
        decays = optim.decay_norms_and_biases or parameter.ndim > 1
        is_matrix = parameter.ndim == 2 if optim.matrix_flag else False
        group = {"params": [], "lr": lr, "weight_decay": optim.weight_decay if decays else 0.0}
        if optim.matrix_flag:
            group[optim.matrix_flag] = is_matrix
        groups.setdefault((decays, is_matrix), group)["params"].append(parameter)
    return list(groups.values())


def _constructor(optim: Optim, device: torch.device) -> Callable[..., torch.optim.Optimizer]:
    """The class with all settings but the parameters."""
    optimizer_class = get_class(optim.target)
    known = inspect.signature(optimizer_class).parameters
    unknown = [name for name in optim.settings if name not in known]
    if unknown:
        raise TypeError(f"it has no argument {', '.join(unknown)}; it has {', '.join(known)}")
    settings = dict(optim.settings)
    if optim.betas is not None:
        settings["betas"] = tuple(optim.betas)
    if optim.eps is not None:
        settings["eps"] = optim.eps
    if optim.stochastic_rounding:
        assert optim.rounding_argument
        settings[optim.rounding_argument] = True
    # The fused kernel makes no temporary copies; torch's own classes have it, on a GPU and on a CPU.
    if "fused" in known and (device.type == "cuda" or optim.offload):
        settings["fused"] = True

    def make(groups: Groups, **_: Any) -> torch.optim.Optimizer:
        # The groups themselves, no copies: what sets a learning rate in them later sets that of the optimizer.
        optimizer: torch.optim.Optimizer = optimizer_class(groups, **settings)
        return optimizer

    return make


def page_states(optimizer: torch.optim.Optimizer) -> None:
    """Gives a loaded state of a paged optimizer of bitsandbytes its place in paged memory again.

    Its `load_state_dict` makes plain tensors on the GPU, which then has no room for them.
    """
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, values in optimizer.state.items():
        for name in PAGED_STATES & values.keys():
            loaded = values[name]
            values[name] = optimizer.get_state_buffer(parameter, dtype=loaded.dtype)  # type: ignore[attr-defined]
            values[name].copy_(loaded)


def clip_gradients(optimizer: torch.optim.Optimizer, accelerator: Accelerator, max_norm: float | None) -> torch.Tensor:
    """Scales the gradients down to `max_norm` (None: never) and returns their global norm before."""
    holder = getattr(optimizer, "optimizer", optimizer)  # out of accelerate's wrapper
    if isinstance(holder, HoldsGradients):
        return holder.clip_gradients(max_norm or math.inf)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm: torch.Tensor = accelerator.clip_grad_norm_(parameters, max_norm or math.inf)
    return norm


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
