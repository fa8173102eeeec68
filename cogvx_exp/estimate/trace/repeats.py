"""Calls of a module that repeat an earlier one, as the autoencoder's for its tiles do: counted, not traced again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from cogvx_exp.estimate.trace.memory_tracker import MemoryTracker, Use


@dataclass(frozen=True)
class _Call:
    """What a call took, and its result without the data."""

    use: Use
    leaves: list[Any]
    """Of the result; of tensors, those on the meta device."""
    kinds: list[str]
    structure: Any


class Repeats:
    """The forward pass of a module, traced once for each combination of input shapes.

    A call with shapes that are known makes a result of the same shapes, and raises the peak as far above the bytes
    allocated at that time as the first such call did. Of the 54 calls of the tiled autoencoder for a clip of
    49x480x720, 8 are traced to encode it, and 12 to decode it.

    Args:
        module: its `forward` is replaced. What it takes must depend on the shapes of its inputs alone.
        tracker: counts its bytes.
    """

    def __init__(self, module: nn.Module, tracker: MemoryTracker):
        self._forward, self._tracker = module.forward, tracker
        self._known: dict[Any, _Call | None] = {}
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of `forward`."""
        inputs, structure = tree_flatten((args, kwargs))
        key = (str(structure), *map(_shape, inputs))
        if known := self._known.get(key):
            return self._repeated(known)
        with self._tracker.measured() as use:
            result = self._forward(*args, **kwargs)
        self._known[key] = self._call(use, inputs, result)
        return result

    def _call(self, use: Use, inputs: list[Any], result: Any) -> _Call | None:
        """The call as it can be repeated; None if its result shares memory with itself or with the inputs."""
        leaves, structure = tree_flatten(result)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in inputs if isinstance(leaf, torch.Tensor)}
        own = {tensor.untyped_storage()._cdata for tensor in tensors} - given
        if len(own) < len(tensors) or any(tensor.untyped_storage().nbytes() != tensor.nbytes for tensor in tensors):
            return None
        kinds = [self._tracker.kind_of(tensor) for tensor in tensors]
        return _Call(use, [_without_data(leaf) for leaf in leaves], kinds, structure)

    def _repeated(self, call: _Call) -> Any:
        self._tracker.repeat(call.use)
        kinds, leaves = iter(call.kinds), []
        for leaf in call.leaves:
            if isinstance(leaf, torch.Tensor):
                with self._tracker.category(next(kinds)):
                    leaf = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype)
            leaves.append(leaf)
        return tree_unflatten(leaves, call.structure)


def _shape(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value


def _without_data(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
