"""Copies tensors between a device and host memory, overlapped with computation."""

from dataclasses import dataclass

import torch
from torch.torch_version import TorchVersion

PINNED_ROUNDING_LIMIT = 1 << 20
"""Pinned tensors up to this many bytes are rounded up to a power of two; larger ones are not. `choose_compute` sets
this limit in torch's allocator, which has none by default (ATen/core/CachingHostAllocator.h)."""

HAS_ROUNDING_LIMIT = TorchVersion(torch.__version__) >= "2.13"
"""Whether the allocator supports the limit; older versions round all sizes."""


def pinned_size(nbytes: int) -> int:
    """Host memory used by a pinned tensor of `nbytes`."""
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
    """Completion of the last copy."""


class HostMemory:
    """Copies between a device and host memory, which is pinned for a GPU.

    On a GPU, copies run on a separate stream and overlap with the computation: call `prefetch` ahead of need, then
    `fetch`. On other devices they are plain copies.

    All device memory is allocated on the computation's stream. Events order each copy after the computation that last
    used the memory, and the computation after the copy. `Tensor.record_stream` would need fewer events, but memory it
    marks is only reused once the host has seen both streams finish with it (c10/cuda/CUDACachingAllocator.cpp,
    `process_events`). The host runs several blocks ahead of a GPU, so the tensors of all of these would be in memory.
    """

    def __init__(self, device: torch.device):
        self.device = device
        # One stream for both directions: with two, a prefetch could overtake the offload whose memory it reads.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def empty(self, nbytes: int) -> torch.Tensor:
        """Uninitialized host memory: uint8, (nbytes,)."""
        # Copies from or to pageable memory go through a staging buffer and are not asynchronous.
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._stream is not None)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """An uninitialized tensor in host memory."""
        return torch.empty_like(tensor, device="cpu", pin_memory=self._stream is not None)

    def empty_on_device(self, nbytes: int) -> torch.Tensor:
        """Uninitialized device memory: uint8, (nbytes,)."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def computed(self) -> torch.cuda.Event | None:
        """An event after all computation queued so far."""
        # Looked up at each call: backward passes run on the stream of their forward pass, which may not be the default
        # one.
        return torch.cuda.current_stream(self.device).record_event() if self._stream else None

    def copy(
        self, target: torch.Tensor, source: torch.Tensor, after: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        """Copies between device and host after `after`; returns an event for the end of the copy."""
        if self._stream is None:
            target.copy_(source)
            return None
        if after:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return self._stream.record_event()

    def wait(self, copied: torch.cuda.Event | None) -> None:
        """Makes the computation wait for a copy."""
        if copied:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def offload(self, tensor: torch.Tensor) -> OffloadedTensor:
        """Starts copying a tensor to the host. It stays on the device until `release`."""
        # torch caches freed pinned memory, so only the first step pays for allocating it.
        on_host = self.empty_like(tensor)
        return OffloadedTensor(on_host, original=tensor, copied=self.copy(on_host, tensor, self.computed()))

    def release(self, offloaded: OffloadedTensor) -> None:
        """Returns the original tensor's memory to the computation, once it has been copied."""
        # The memory returns to the computation's stream, which must not overwrite it before the copy has read it.
        self.wait(offloaded.copied)
        offloaded.original = None

    def prefetch(self, offloaded: OffloadedTensor) -> None:
        """Starts copying a tensor to the device. `fetch` must follow."""
        if offloaded.on_device is None:
            # Allocated on the computation's stream: it may reuse memory that queued kernels still read, hence the
            # event.
            offloaded.on_device = torch.empty_like(offloaded.on_host, device=self.device)
            offloaded.copied = self.copy(offloaded.on_device, offloaded.on_host, self.computed())

    def fetch(self, offloaded: OffloadedTensor) -> torch.Tensor:
        """The tensor on the device, ready for computation. `offloaded` no longer keeps it there."""
        self.prefetch(offloaded)
        tensor, offloaded.on_device = offloaded.on_device, None
        assert tensor is not None
        self.wait(offloaded.copied)
        return tensor
