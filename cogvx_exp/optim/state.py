"""The learned state of an optimizer, separate from its settings.

State is what a run has learned: moments, step counts, Prodigy's estimate. Settings are what the user specifies now. A
checkpoint contains both in the format of the optimizer's class: one state for all parameters, or one per parameter
(released or offloaded gradients), numbered by parameter groups. Here the learned part is read by parameter name, so an
optimizer of the same class can load it with other settings and groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from cogvx_exp.config.schema import Optim
from cogvx_exp.optim.build import build_optimizer, group_names

SETTINGS = (
    *("params", "param_names", "lr", "initial_lr", "weight_decay", "betas", "momentum", "eps"),
    *("foreach", "fused", "capturable", "differentiable", "maximize"),
)
"""Values of a parameter group that are never learned."""

OFFLOADED_FROM = 4096
"""Minimum size from which torchao's CPUOffloadOptimizer keeps a parameter's state on the host (its `minimal_size`)."""

NO_EFFECT_ON_STATES = {
    *("name", "lr", "scale_lr", "weight_decay", "decay_norms_and_biases", "matrix_flag", "state_values"),
    *("state_bytes", "rounding_argument", "offload", "offload_gradients", "release_gradients"),
}
"""Settings that affect neither the tensors an optimizer keeps for a parameter nor their shapes."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OptimizerStates:
    """The learned state of an optimizer, by parameter name; empty if nothing is carried over."""

    states: dict[str, dict[str, Any]]
    """Per parameter: moments and step count."""
    of_groups: dict[str, dict[str, Any]]
    """Per parameter: learned values of its group."""
    settings: dict[str, dict[str, Any]]
    """Per parameter: the other values of its group at the time."""


NOTHING = OptimizerStates({}, {}, {})


def read_learned(state: dict[str, Any], shapes: Shapes, optim: Optim) -> OptimizerStates:
    """Reads the learned part of an optimizer's state.

    Args:
        state: result of the optimizer's `state_dict`.
        shapes: shapes of the trained parameters, in order.
        optim: the optimizer's settings at the time.

    Raises:
        ValueError: the state does not belong to these parameters.
    """
    # By name: numbers follow the groups, which decay_norms_and_biases and the matrix flag rearrange.
    learned = OptimizerStates({}, {}, {})
    for part, groups in _parts(state, group_names(shapes, optim), shapes):
        for values, names in zip(part["param_groups"], groups, strict=True):
            initial = _initial_values(optim, len(shapes[names[0]]))
            new = {key: value for key, value in values.items() if _is_learned(key, value, initial)}
            for number, name in zip(values["params"], names, strict=True):
                if number in part["state"]:
                    learned.states[name] = part["state"][number]
                learned.of_groups[name] = new
                learned.settings[name] = {key: values[key] for key in values.keys() - new.keys() - {"params"}}
    return learned


def load_states(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], learned: OptimizerStates
) -> None:
    """Loads the learned state of another optimizer of the same class; settings are kept.

    Args:
        optimizer: an optimizer that has not been stepped.
        parameters: its parameters by name.
        learned: parameters without an entry start with a new state.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # unwrap accelerate's wrapper
    names = {parameter: name for name, parameter in parameters.items()}
    copies = getattr(optimizer, "param_d2h_map", {})
    # An offloaded optimizer's groups hold the copies on the host, not the model's parameters.
    names |= {on_host: names[on_device] for on_device, on_host in copies.items()}
    for part in getattr(optimizer, "parts", [optimizer]):
        _load_part(part, [[names[parameter] for parameter in group["params"]] for group in part.param_groups], learned)
    if hasattr(optimizer, "take_weights"):
        optimizer.take_weights()


def states_fit(learned: OptimizerStates, shapes: Shapes, before: Optim, now: Optim, like: torch.Tensor) -> bool:
    """Whether optimizers with the settings `before` and `now` keep the same state tensors.

    A trial step per parameter shape is made only if relevant settings have changed.

    Args:
        learned: the state to be loaded.
        shapes: shapes of the trained parameters.
        before: settings of the old optimizer, of the same class as `now`.
        now: current settings.
        like: a trained parameter, for dtype and device.
    """
    if before.model_dump(exclude=NO_EFFECT_ON_STATES) == now.model_dump(exclude=NO_EFFECT_ON_STATES):
        return True
    # By shape: states depend on it (factored moments, quantization limits), but not on which layer it is.
    examples = {shapes[name]: name for name in learned.states}
    return all(
        _form(_state_after_a_step(shape, now, like)) == _form(learned.states[name]) for shape, name in examples.items()
    )


def _parts(
    state: dict[str, Any], groups: list[list[str]], shapes: Shapes
) -> Iterator[tuple[dict[str, Any], list[list[str]]]]:
    """Splits a state into parts in torch's format, each with the parameter names of its groups."""
    names = [name for group in groups for name in group]
    if "parameters" in state:  # optimizer in backward: one optimizer per parameter
        for part, name in zip(state["parameters"], names, strict=True):
            yield part, [[name]]
    elif "offloaded" in state:  # torchao's CPUOffloadOptimizer: the same, but small parameters share one
        large = [name for name in names if prod(shapes[name]) >= OFFLOADED_FROM]
        for part, name in zip(state["offloaded"], large, strict=True):
            yield part, [[name]]
        small = [[name for name in group if name not in set(large)] for group in groups]
        if "on-device" in state:
            yield state["on-device"], [group for group in small if group]
    else:
        yield state, groups


def _load_part(part: torch.optim.Optimizer, names: Sequence[Sequence[str]], learned: OptimizerStates) -> None:
    fresh = part.state_dict()
    numbered = [
        (number, name)
        for group, of_group in zip(fresh["param_groups"], names, strict=True)
        for number, name in zip(group["params"], of_group, strict=True)
    ]
    states = {number: learned.states[name] for number, name in numbered if name in learned.states}
    groups = [
        {**group, **learned.of_groups.get(of_group[0], {})}
        for group, of_group in zip(fresh["param_groups"], names, strict=True)
    ]
    part.load_state_dict({**fresh, "state": states, "param_groups": groups})
    # Only schedule-free optimizers have these methods.
    if hasattr(part, "eval") and hasattr(part, "train") and states:
        _keep_average(part, [learned.settings[of_group[0]] for of_group in names])


def _keep_average(part: Any, before: list[dict[str, Any]]) -> None:
    """A schedule-free optimizer's weights interpolate between two sets according to its betas: adapts them to new
    betas."""
    now = [dict(group) for group in part.param_groups]
    keys = ("betas", "momentum")
    if all(old.get(key) == new.get(key) for old, new in zip(before, now, strict=True) for key in keys):
        return
    for group, old in zip(part.param_groups, before, strict=True):
        group.update({key: old[key] for key in keys if key in old})
    part.eval()
    for group, new in zip(part.param_groups, now, strict=True):
        group.update({key: new[key] for key in keys if key in new})
    part.train()


def _is_learned(key: str, value: Any, initial: dict[str, Any]) -> bool:
    """Whether a parameter group's value was changed by the optimizer itself."""
    if key in SETTINGS:
        return False
    # Prodigy's `d`, for example, is a group value that starts as a setting and is then learned.
    return key not in initial or not _same(value, initial[key])


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        return torch.equal(torch.as_tensor(first).cpu(), torch.as_tensor(second).cpu())
    return bool(first == second)


def _initial_values(optim: Optim, dimensions: int) -> dict[str, Any]:
    """The group values of a new optimizer for one parameter."""
    # With as many dimensions: weight decay and the matrix flag depend on them.
    weight = torch.nn.Parameter(torch.zeros([2] * dimensions))
    return dict(build_optimizer({"weight": weight}, _alone(optim), torch.device("cpu")).param_groups[0])


def _state_after_a_step(shape: tuple[int, ...], optim: Optim, like: torch.Tensor) -> dict[str, Any]:
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))
    weight.grad = torch.full_like(weight, 1e-3)
    optimizer = build_optimizer({"weight": weight}, _alone(optim), weight.device)
    optimizer.step()
    return dict(optimizer.state_dict()["state"][0])


def _alone(optim: Optim) -> Optim:
    """The settings without offloading, for an optimizer on the parameters' device."""
    return optim.model_copy(update={"offload": False, "offload_gradients": False, "release_gradients": False})


def _form(value: Any) -> Any:
    """Names, kinds and shapes of a parameter's state."""
    if isinstance(value, dict):
        return {key: _form(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        # Not the dtype: `load_state_dict` converts between floating-point types, but not to quantized ones.
        kind = type(value).__name__ if hasattr(value, "__tensor_flatten__") else value.is_floating_point()
        return kind, tuple(value.shape)
    return None
