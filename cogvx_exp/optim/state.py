"""What an optimizer has learned, apart from its settings.

State is what a run has learned: moments, step counts, Prodigy's estimate. Settings are what the user says now. A
checkpoint has both in the form of the optimizer's class: one state for all parameters, or one for each (released or
offloaded gradients), numbered by parameter groups. Here the learned part is read by the parameter's name, so that an
optimizer of the same class with other settings and other groups can take it over.
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
"""Values from which torchao's CPUOffloadOptimizer keeps a parameter's state on the host (its `minimal_size`)."""

NO_EFFECT_ON_STATES = {
    *("name", "lr", "scale_lr", "weight_decay", "decay_norms_and_biases", "matrix_flag", "state_values"),
    *("state_bytes", "rounding_argument", "offload", "offload_gradients", "release_gradients"),
}
"""Settings that change neither which tensors an optimizer keeps for a parameter nor their form."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OptimizerStates:
    """What an optimizer has learned, by the names of the parameters; empty if nothing is carried over."""

    states: dict[str, dict[str, Any]]
    """Of each parameter: moments and step count."""
    of_groups: dict[str, dict[str, Any]]
    """Of each parameter: what its group has learned."""
    settings: dict[str, dict[str, Any]]
    """Of each parameter: the other values of its group, as they were."""


NOTHING = OptimizerStates({}, {}, {})


def read_learned(state: dict[str, Any], shapes: Shapes, optim: Optim) -> OptimizerStates:
    """What an optimizer's state has learned.

    Args:
        state: as the optimizer's `state_dict` gave it.
        shapes: of the trained parameters, in their order.
        optim: the settings the optimizer had.

    Raises:
        ValueError: the state is not one of these parameters.
    """
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
    """Gives an optimizer what another one of its class has learned; its settings stay.

    Args:
        optimizer: one that has made no step.
        parameters: its parameters by name.
        learned: where a parameter is missing, its state starts afresh.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # out of accelerate's wrapper
    names = {parameter: name for name, parameter in parameters.items()}
    copies = getattr(optimizer, "param_d2h_map", {})
    names |= {on_host: names[on_device] for on_device, on_host in copies.items()}
    for part in getattr(optimizer, "parts", [optimizer]):
        _load_part(part, [[names[one] for one in group["params"]] for group in part.param_groups], learned)
    if hasattr(optimizer, "take_weights"):
        optimizer.take_weights()


def states_fit(learned: OptimizerStates, shapes: Shapes, before: Optim, now: Optim, like: torch.Tensor) -> bool:
    """Whether an optimizer with the settings `now` keeps the same tensors as the one with the settings `before` did.

    Only if settings have changed that may matter, a step is made with a parameter of each shape.

    Args:
        learned: what is to be carried over.
        shapes: of the trained parameters.
        before: the settings the states were made with; the same class as `now`.
        now: the settings.
        like: a trained parameter, for the type and the device.
    """
    if before.model_dump(exclude=NO_EFFECT_ON_STATES) == now.model_dump(exclude=NO_EFFECT_ON_STATES):
        return True
    examples = {shapes[name]: name for name in learned.states}
    return all(
        _form(_state_after_a_step(shape, now, like)) == _form(learned.states[name]) for shape, name in examples.items()
    )


def _parts(
    state: dict[str, Any], groups: list[list[str]], shapes: Shapes
) -> Iterator[tuple[dict[str, Any], list[list[str]]]]:
    """The states of a class of torch's form in a state, each with the names in its groups."""
    names = [name for group in groups for name in group]
    if "parameters" in state:  # released gradients: one optimizer for each parameter
        for part, name in zip(state["parameters"], names, strict=True):
            yield part, [[name]]
    elif "offloaded" in state:  # torchao's CPUOffloadOptimizer: the same, but small parameters have one together
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
    if hasattr(part, "eval") and hasattr(part, "train") and states:
        _keep_average(part, [learned.settings[of_group[0]] for of_group in names])


def _keep_average(part: Any, before: list[dict[str, Any]]) -> None:
    """A schedule-free optimizer's weights lie between two sets of weights, where its betas say: moves them along."""
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
    """Whether a value of a parameter group is one that the optimizer itself has changed."""
    if key in SETTINGS:
        return False
    return key not in initial or not _same(value, initial[key])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu())
    return bool(one == other)


def _initial_values(optim: Optim, dimensions: int) -> dict[str, Any]:
    """The values of the group of a parameter in an optimizer that has made no step."""
    weight = torch.nn.Parameter(torch.zeros([2] * dimensions))
    return dict(build_optimizer({"weight": weight}, _alone(optim), torch.device("cpu")).param_groups[0])


def _state_after_a_step(shape: tuple[int, ...], optim: Optim, like: torch.Tensor) -> dict[str, Any]:
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))
    weight.grad = torch.full_like(weight, 1e-3)
    optimizer = build_optimizer({"weight": weight}, _alone(optim), weight.device)
    optimizer.step()
    return dict(optimizer.state_dict()["state"][0])


def _alone(optim: Optim) -> Optim:
    """The settings of the class itself, on the device of its parameters."""
    return optim.model_copy(update={"offload": False, "offload_gradients": False, "release_gradients": False})


def _form(value: Any) -> Any:
    """Names, kinds and shapes of what is kept for a parameter."""
    if isinstance(value, dict):
        return {key: _form(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        kind = type(value).__name__ if hasattr(value, "__tensor_flatten__") else value.is_floating_point()
        return kind, tuple(value.shape)
    return None
