"""Converts nested states of optimizers and schedules to tensors and JSON, so that nothing is pickled."""

from typing import Any

import torch

QUANTIZED_STATES = ("OptimState4bit", "OptimState8bit", "OptimStateFp8")
"""torchao's quantized optimizer states: tensor subclasses with several inner tensors."""


def flatten_state(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    """Moves the tensors of a nested state to `tensors`, copied to the host; returns the rest as JSON."""
    if type(value).__name__ in QUANTIZED_STATES:
        names, settings = value.__tensor_flatten__()
        parts = {name: flatten_state(getattr(value, name), tensors, f"{path}.{name}") for name in names}
        return {"quantized": type(value).__name__, "parts": parts, "settings": flatten_state(settings, tensors, path)}
    if isinstance(value, torch.Tensor):
        # Copied even on the CPU: the next step changes the original while a thread writes this.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        # As pairs: JSON objects turn integer keys, such as torch's parameter numbers, into strings.
        return {"items": [[key, flatten_state(item, tensors, f"{path}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        # Tuples stay tuples: betas are compared with the optimizer's own.
        items = [flatten_state(item, tensors, f"{path}.{index}") for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    assert value is None or isinstance(value, bool | int | float | str), f"{path} is {type(value).__name__}"
    return value


def unflatten_state(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `flatten_state`."""
    if isinstance(value, list):
        return [unflatten_state(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "tuple" in value:
        return tuple(unflatten_state(item, tensors) for item in value["tuple"])
    if "quantized" in value:
        parts = {name: unflatten_state(part, tensors) for name, part in value["parts"].items()}
        return _quantized_state(value["quantized"]).__tensor_unflatten__(
            parts, unflatten_state(value["settings"], tensors)
        )
    return {key: unflatten_state(item, tensors) for key, item in value["items"]}


def _quantized_state(name: str) -> Any:
    """One of torchao's classes by name. Only these names are allowed: checkpoints must not choose what is imported."""
    from torchao.optim import subclass_4bit, subclass_8bit, subclass_fp8

    modules = {"OptimState4bit": subclass_4bit, "OptimState8bit": subclass_8bit, "OptimStateFp8": subclass_fp8}
    return getattr(modules[name], name)
