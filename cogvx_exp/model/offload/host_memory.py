"""Moves tensors between a device and host memory, beside the computation."""

from dataclasses import dataclass

import torch
from torch.torch_version import TorchVersion

PINNED_ROUNDING_LIMIT = 1 << 20
"""Bytes up to which a pinned tensor takes the next power of two. A larger one takes what it needs: `choose_compute`
gives this limit to torch's allocator, which by default has none (ATen/core/CachingHostAllocator.h)."""

HAS_ROUNDING_LIMIT = TorchVersion(torch.__version__) >= "2.13"
"""Whether the allocator knows a limit; older versions round all sizes."""


def pinned_size(nbytes: int) -> int:
    """Bytes of host memory that a pinned tensor of `nbytes` takes."""
    if HAS_ROUNDING_LIMIT and nbytes > PINNED_ROUNDING_LIMIT:
        return nbytes
    return 1 << max(nbytes - 1, 0).bit_length()


@dataclass(eq=False)
class OffloadedTensor:
    """A tensor in host memory."""

    on_host: torch.Tensor
    original: torch.Tensor | None = None
    """The tensor on the device, until `HostMemory.release`."""
    on_device: torch.Tensor | None = None
    """Its copy on the device, between `HostMemory.prefetch` and `fetch`."""
    copied: torch.cuda.Event | None = None
    """When the last copy is complete."""


class HostMemory:
    """Copies between a device and (on a GPU pinned) host memory.

    On a GPU the copies run on a stream of their own, so that the computation goes on meanwhile: `prefetch` ahead of
    need, then `fetch`. Elsewhere they are plain copies.

    All device memory is allocated on the computation's stream. Events order each copy after the computation that used
    the memory before, and the computation after the copy. `Tensor.record_stream` would do with fewer, but memory that
    it marks is not used again before the host has seen that both streams are done with it
    (c10/cuda/CUDACachingAllocator.cpp, `process_events`). The host runs several blocks ahead of a GPU, and the tensors
    of all of those would be in memory.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def empty(self, nbytes: int) -> torch.Tensor:
        """Host memory without content: uint8, (nbytes,)."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._stream is not None)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor in host memory without content."""
        return torch.empty_like(tensor, device="cpu", pin_memory=self._stream is not None)

    def empty_on_device(self, nbytes: int) -> torch.Tensor:
        """Device memory without content: uint8, (nbytes,)."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def computed(self) -> torch.cuda.Event | None:
        """An event for all that the computation has queued so far."""
        return torch.cuda.current_stream(self.device).record_event() if self._stream else None

    def copy(
        self, target: torch.Tensor, source: torch.Tensor, after: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        """Copies between device and host when `after` is past; returns an event for the end of the copy."""
        if self._stream is None:
            target.copy_(source)
            return None
        if after:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return self._stream.record_event()

    def wait(self, copied: torch.cuda.Event | None) -> None:
        """Lets the computation go on when a copy is complete."""
        if copied:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def offload(self, tensor: torch.Tensor) -> OffloadedTensor:
        """Begins to copy a tensor to the host. It stays on the device until `release`."""
        on_host = self.empty_like(tensor)
        return OffloadedTensor(on_host, original=tensor, copied=self.copy(on_host, tensor, self.computed()))

    def release(self, offloaded: OffloadedTensor) -> None:
        """Gives the original tensor's memory back to the computation, from its present point on."""
        self.wait(offloaded.copied)
        offloaded.original = None

    def prefetch(self, offloaded: OffloadedTensor) -> None:
        """Begins to copy a tensor to the device. `fetch` has to follow."""
        if offloaded.on_device is None:
            offloaded.on_device = torch.empty_like(offloaded.on_host, device=self.device)
            offloaded.copied = self.copy(offloaded.on_device, offloaded.on_host, self.computed())

    def fetch(self, offloaded: OffloadedTensor) -> torch.Tensor:
        """The tensor on the device, for the computation from now on. `offloaded` no longer holds it there."""
        self.prefetch(offloaded)
        tensor, offloaded.on_device = offloaded.on_device, None
        assert tensor is not None
        self.wait(offloaded.copied)
        return tensor
