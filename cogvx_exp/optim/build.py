"""Builds optimizers."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_class

from cogvx_exp.config.schema import Optim
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.optim.in_backward import OptimizerInBackward

logger = logging.getLogger(__name__)

PAGED_STATES = {"state1", "state2"}
"""State tensors that bitsandbytes' paged optimizers keep in paged memory."""

Groups = list[dict[str, Any]]


def build_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], optim: Optim, device: torch.device, lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """Builds the class `optim.target` with the common settings that its YAML file sets.

    Args:
        parameters: the trained parameters by name.
        optim: the settings.
        device: device of the parameters.
        lr_factor: factor of the learning rate with `optim.scale_lr`.

    Raises:
        UserError: the class cannot be imported, or rejects the settings.
    """
    groups = parameter_groups(parameters, optim, optim.lr * (lr_factor if optim.scale_lr else 1.0))
    try:
        make = _constructor(optim, device)
        if optim.release_gradients:
            # One optimizer per parameter: torch's classes can only step all of their parameters at once.
            return OptimizerInBackward(groups, make)
        if optim.offload and device.type == "cuda":
            from cogvx_exp.optim.offloaded import OffloadedOptimizer

            # `make` has the class's arguments; for torch.optim.AdamW itself, torchao would add some of its own.
            keywords = {"optimizer_class": make, "offload_gradients": optim.offload_gradients}
            return OffloadedOptimizer(groups, **keywords)
        if optim.offload:
            console.warn(f"optim={optim.name}: without a GPU, {optim.target} runs on the CPU unchanged")
        optimizer = make(groups)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"optim={optim.name}: {optim.target} cannot be built: {error}") from None
    logger.info("optimizer %s with %d groups, lr %g", type(optimizer).__name__, len(groups), groups[0]["lr"])
    if hasattr(optimizer, "train"):  # schedule-free optimizers keep different weights for training and evaluation
        optimizer.train()
    return optimizer


def parameter_groups(parameters: Mapping[str, torch.nn.Parameter], optim: Optim, lr: float) -> Groups:
    """Parameter groups with their weight decay, and with the matrix flag if the class needs one."""
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    groups: Groups = []
    for names in group_names(shapes, optim):
        decays, is_matrix = _kind(shapes[names[0]], optim)
        group = {"params": [parameters[name] for name in names], "lr": lr}
        group["weight_decay"] = optim.weight_decay if decays else 0.0
        if optim.matrix_flag:
            group[optim.matrix_flag] = is_matrix
        groups.append(group)
    return groups


def group_names(shapes: Mapping[str, tuple[int, ...]], optim: Optim) -> list[list[str]]:
    """Names of the parameters in each group, in the order of `parameter_groups`."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name, shape in shapes.items():
        # By kind and not by name, so that few groups remain: foreach kernels work within one group.
        groups.setdefault(_kind(shape, optim), []).append(name)
    return list(groups.values())


def _kind(shape: tuple[int, ...], optim: Optim) -> tuple[bool, bool]:
    """Whether a parameter of this shape has weight decay, and whether it is flagged as a matrix."""
    return optim.decay_norms_and_biases or len(shape) > 1, bool(optim.matrix_flag) and len(shape) == 2


def _constructor(optim: Optim, device: torch.device) -> Callable[..., torch.optim.Optimizer]:
    """The class with all arguments except the parameters."""
    optimizer_class = get_class(optim.target)
    known = inspect.signature(optimizer_class).parameters
    # Before the call: a class that takes **kwargs would swallow a misspelled one.
    unknown = [name for name in optim.kwargs if name not in known]
    if unknown:
        raise TypeError(f"it has no argument {', '.join(unknown)}; it accepts {', '.join(known)}")
    kwargs = dict(optim.kwargs)
    if optim.betas is not None:
        kwargs["betas"] = tuple(optim.betas)
    if optim.eps is not None:
        kwargs["eps"] = optim.eps
    if optim.stochastic_rounding:
        assert optim.rounding_argument
        kwargs[optim.rounding_argument] = True
    # Fused kernels make no temporary copies; torch's own classes have them, for GPUs and CPUs.
    if "fused" in known and (device.type == "cuda" or optim.offload):
        kwargs["fused"] = True

    logger.debug("%s, %s", optim.target, kwargs)

    def make(groups: Groups, **_: Any) -> torch.optim.Optimizer:
        # The groups themselves, not copies: learning rates set in them later must take effect in the optimizer.
        optimizer: torch.optim.Optimizer = optimizer_class(groups, **kwargs)
        return optimizer

    return make


def page_states(optimizer: torch.optim.Optimizer) -> None:
    """Moves the loaded state of a paged bitsandbytes optimizer back to paged memory.

    bitsandbytes' `load_state_dict` creates plain GPU tensors, for which the GPU may have no room.
    """
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, values in optimizer.state.items():
        for name in PAGED_STATES & values.keys():
            loaded = values[name]
            values[name] = optimizer.get_state_buffer(parameter, dtype=loaded.dtype)  # type: ignore[attr-defined]
            values[name].copy_(loaded)
