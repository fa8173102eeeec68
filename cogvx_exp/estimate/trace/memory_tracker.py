"""Tracks allocated bytes like a device's allocator."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count

BLOCK = 512
"""Rounding of torch's CUDA allocator, in bytes."""

aten = torch.ops.aten
KINDS = {
    "attention": (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_backward,
    ),
    "linear layers": (aten.addmm, aten.mm, aten.bmm),
    "norms": (aten.native_layer_norm, aten.native_layer_norm_backward, aten.native_group_norm),
    "gelu": (aten.gelu, aten.gelu_backward),
    "convolutions": (aten.convolution, aten.conv2d, aten.conv3d, aten.convolution_backward),
}
"""Kind of a tensor, by the operation that created it; `other` by default."""

FLASH_BACKWARD = KINDS["attention"][1]
CONVOLUTIONS = KINDS["convolutions"][:3]
"""Forward."""


@dataclass
class Use:
    """What a part of a trace took."""

    peak: int = 0
    """Bytes above those that were allocated at its start."""
    kinds: Counter[str] = field(default_factory=Counter)
    """The same, by kind."""
    convolved: float = 0.0
    """Operations of convolutions."""


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of each storage allocated inside, until it is freed.

    torch's own tracker (torch.distributed._tools.mem_tracker) fails with frozen weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocated = 0
        """Current bytes."""
        self.peak = 0
        """Peak bytes since the last `reset_peak`."""
        self.by_kind: Counter[str] = Counter()
        """Current bytes, by kind."""
        self.at_peak: Counter[str] = Counter()
        """Bytes at the peak, by kind."""
        self.convolved = 0.0
        """Operations of convolutions, forward."""
        self._kind_of: dict[int, tuple[str, int]] = {}
        self._references: dict[int, weakref.ref] = {}
        self._excluded: set[int] = set()
        self._new = "other"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = getattr(function, "overloadpacket", None)
        kind = next((name for name, packets in KINDS.items() if packet in packets), self._new)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor, kind)
        if packet in CONVOLUTIONS:
            self.convolved += conv_flop_count(args[0].shape, args[1].shape, result.shape)
        if packet is FLASH_BACKWARD:
            # On a GPU, FlashAttention-2 accumulates the queries' gradient in float32 in addition to the result.
            self._see_peak("attention", 4 * args[1].numel())
        return result

    @contextmanager
    def category(self, kind: str) -> Iterator[None]:
        """Gives new tensors this kind, unless their operation determines it."""
        before, self._new = self._new, kind
        try:
            yield
        finally:
            self._new = before

    @contextmanager
    def measured(self) -> Iterator[Use]:
        """Yields what is filled in at the end: what the block took."""
        outer, allocated, convolved = (self.peak, self.at_peak), self.allocated, self.convolved
        kinds = Counter(self.by_kind)
        self.reset_peak()
        use = Use()
        yield use
        use.peak, use.kinds, use.convolved = self.peak - allocated, Counter(self.at_peak), self.convolved - convolved
        use.kinds.subtract(kinds)
        if outer[0] > self.peak:
            self.peak, self.at_peak = outer

    def repeat(self, use: Use) -> None:
        """Counts what a block took once more, without what it left allocated."""
        self.convolved += use.convolved
        if self.allocated + use.peak > self.peak:
            self.peak, self.at_peak = self.allocated + use.peak, Counter(self.by_kind)
            self.at_peak.update(use.kinds)

    def kind_of(self, tensor: torch.Tensor) -> str:
        """The kind of a counted tensor."""
        return self._kind_of[tensor.untyped_storage()._cdata][0]

    def label(self, tensor: torch.Tensor, kind: str) -> None:
        """Changes the kind of a tensor."""
        key = tensor.untyped_storage()._cdata
        if key in self._kind_of:
            old, size = self._kind_of[key]
            self.by_kind[old] -= size
            self.by_kind[kind] += size
            self._kind_of[key] = (kind, size)

    def exclude(self, tensor: torch.Tensor) -> None:
        """Stops counting a tensor and its views, because it is not on the device."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._forget(key)
        self._excluded.add(key)
        self._references[key] = weakref.ref(storage, lambda _: self._excluded.discard(key))

    def reset_peak(self) -> None:
        """Restarts the peak from the current state."""
        self.peak, self.at_peak = self.allocated, Counter(self.by_kind)

    def _count(self, tensor: torch.Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._kind_of or key in self._excluded or tensor.device.type == "meta":
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._kind_of[key] = (kind, size)
        # The storage's end is the moment the allocator would get the memory back.
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.allocated += size
        self.by_kind[kind] += size
        self._see_peak(kind, 0)

    def _see_peak(self, kind: str, temporary: int) -> None:
        if self.allocated + temporary > self.peak:
            self.peak = self.allocated + temporary
            # Copied only at a new peak, as a step has many operations.
            self.at_peak = Counter(self.by_kind)
            self.at_peak[kind] += temporary

    def _forget(self, key: int) -> None:
        if key in self._kind_of:
            kind, size = self._kind_of.pop(key)
            self._references.pop(key, None)
            self.allocated -= size
            self.by_kind[kind] -= size
