"""Keeps tensors of a device in host memory and brings them back, beside the computation."""

from dataclasses import dataclass

import torch


@dataclass(eq=False)
class Parked:
    """A tensor in host memory."""

    on_host: torch.Tensor
    on_device: torch.Tensor | None = None
    """Its copy on the device, once it has been asked for."""
    ready: torch.cuda.Event | None = None
    """When the last copy to the device is complete."""


class HostMemory:
    """Copies between a device and (on a GPU pinned) host memory.

    On a GPU the copies run on a stream of their own, so that the computation goes on meanwhile: `fetch` ahead
    of need, then `take`. Elsewhere they are plain copies.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def park(self, tensor: torch.Tensor) -> Parked:
        """Copies a tensor to the host. The device's memory is free as soon as the caller lets it go."""
        if self._stream is None:
            return Parked(tensor.to("cpu", copy=True))
        on_host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            on_host.copy_(tensor, non_blocking=True)
        if tensor.is_cuda:
            tensor.record_stream(self._stream)  # its memory is not used again before the copy is complete
        return Parked(on_host)

    def fetch(self, parked: Parked) -> None:
        """Begins to copy a tensor to the device."""
        if parked.on_device is not None:
            return
        if self._stream is None:
            parked.on_device = parked.on_host.to(self.device, copy=True)
            return
        with torch.cuda.stream(self._stream):
            parked.on_device = parked.on_host.to(self.device, non_blocking=True)
            parked.ready = self._stream.record_event()

    def take(self, parked: Parked) -> torch.Tensor:
        """The tensor on the device, when the computation gets to it. `parked` no longer holds it there."""
        self.fetch(parked)
        tensor, parked.on_device = parked.on_device, None
        assert tensor is not None
        if parked.ready:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(parked.ready)
            tensor.record_stream(current)
        return tensor
