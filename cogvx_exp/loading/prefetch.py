"""Copies batches to a GPU one batch ahead of training."""

from collections.abc import Iterator
from itertools import islice

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.model.offload.host_memory import HostMemory, OffloadedTensor


def on_device(batches: Iterator[Batch], device: torch.device, count: int) -> Iterator[Batch]:
    """`count` batches on a device. On a GPU, the copy of each is started before the one in front of it is trained on.

    What is copied but not trained on is neither counted nor lost: a checkpoint's position in the data is computed from
    its step.

    Args:
        batches: batches in host memory, pinned for asynchronous copies.
        device: the device.
        count: batches that the run still needs; no more are read.

    Raises:
        Exception: raised by `batches`, when the batch that it replaces is due.
    """
    batches = islice(batches, count)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    host = HostMemory(device)
    upcoming = _Upcoming(batches, host)
    try:
        while (batch := upcoming.fetch()) is not None:
            upcoming = _Upcoming(batches, host)
            yield batch
    finally:
        upcoming.abandon()


class _Upcoming:
    """The next batch, on its way to the device."""

    def __init__(self, batches: Iterator[Batch], host: HostMemory):
        self._host = host
        self._tensors: list[OffloadedTensor] = []
        self._batch: Batch | None = None
        self._error: Exception | None = None
        try:
            self._batch = next(batches, None)
        except Exception as error:  # the batches before it can still be trained on
            self._error = error
            return
        if self._batch is not None:
            self._batch.map(self._start)

    def _start(self, tensor: torch.Tensor) -> torch.Tensor:
        self._tensors.append(OffloadedTensor(tensor))
        self._host.prefetch(self._tensors[-1])
        return tensor

    def fetch(self) -> Batch | None:
        """The batch on the device; None after the last one."""
        if self._error:
            raise self._error
        tensors = iter(self._tensors)
        return self._batch and self._batch.map(lambda _: self._host.fetch(next(tensors)))

    def abandon(self) -> None:
        """Lets the computation use the memory again, once what is being copied is there."""
        for tensor in self._tensors:
            if tensor.on_device is not None:
                self._host.fetch(tensor)
