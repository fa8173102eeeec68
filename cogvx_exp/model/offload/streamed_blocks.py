"""Frozen weights of the transformer's blocks in host memory, brought to the device block by block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn

from cogvx_exp.model.offload.host_memory import HostMemory

DEVICE_BUFFERS = 2
"""One for the block that computes and one for the block that is copied. A third would only help if some blocks took
longer to copy than others to compute, but all are alike."""

ALIGNMENT = 256
"""Bytes; what torch's kernels and cuBLAS find where each weight is a tensor of its own."""


class FlatWeights:
    """The frozen weights of a block, one after the other in one buffer of host memory.

    One pinned buffer takes one allocation and one copy a block, and is rounded up once, not weight by weight.
    """

    def __init__(self, block: nn.Module, host: HostMemory):
        self._device = host.device
        self._weights = [weight for weight in block.parameters() if not weight.requires_grad]
        self._shapes = [weight.shape for weight in self._weights]
        sizes = [math.ceil(weight.nbytes / ALIGNMENT) * ALIGNMENT for weight in self._weights]
        self._offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        self.nbytes = sum(sizes)
        self.on_host = host.empty(self.nbytes)
        for weight, view in self._views(self.on_host):
            view.copy_(weight.data)
        self.detach()

    def attach(self, buffer: torch.Tensor) -> None:
        """Points the weights into a copy of the buffer on the device."""
        for weight, view in self._views(buffer):
            weight.data = view

    def detach(self) -> None:
        """Leaves the weights without values."""
        for weight in self._weights:
            # On the device, since DistributedDataParallel refuses a model on two kinds of devices.
            weight.data = torch.empty(0, dtype=weight.dtype, device=self._device)

    def free(self) -> None:
        """Frees the host memory; the block cannot be run any more."""
        self.detach()
        self.on_host = torch.empty(0, dtype=torch.uint8)

    def _views(self, buffer: torch.Tensor) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        for weight, shape, offset in zip(self._weights, self._shapes, self._offsets, strict=True):
            nbytes = shape.numel() * weight.element_size()
            yield weight, buffer[offset : offset + nbytes].view(weight.dtype).view(shape)


@dataclass(eq=False)
class DeviceBuffer:
    """Memory of the device for the weights of one block at a time."""

    data: torch.Tensor | None = None
    block: int | None = None
    """Whose weights are in it, or are being copied."""
    copied: torch.cuda.Event | None = None
    """When they are there."""
    attached: bool = False
    """Whether the block may be computing with them."""
    computed: torch.cuda.Event | None = None
    """When the block that was in it before has been computed, after `attached` has ended."""


class BlockStream:
    """Frozen weights of the blocks wait in host memory; each block's are on the device while it is run.

    The next block's weights (in the backward pass the previous one's) are copied while a block computes, into one of
    `DEVICE_BUFFERS`. The copy waits on its stream for an event that the computation has recorded when it was done
    with what the buffer held. Needs activations to be computed again: between a block's forward and backward pass its
    weights are not there.
    """

    def __init__(self, transformer: CogVideoXTransformer3DModel, host: HostMemory):
        self._host = host
        self._weights: list[FlatWeights] = []
        self._buffers = [DeviceBuffer() for _ in range(DEVICE_BUFFERS)]
        for index, block in enumerate(transformer.transformer_blocks):
            # One block after the other: two copies of all blocks might not fit the host.
            self._weights.append(FlatWeights(block, host))
            for parameter in block.parameters():  # an adapter, which was made where its base was
                parameter.data = parameter.data.to(host.device)
            block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)
            block.register_forward_hook(partial(self._after, index), always_call=True)
        transformer.block_stream = self

    def free_buffers(self) -> None:
        """Frees the device's memory until the next pass."""
        for buffer in self._buffers:
            self._detach(buffer)
            self._host.wait(buffer.copied)  # the memory is the computation's again
            buffer.data, buffer.block, buffer.copied = None, None, None

    def free(self) -> None:
        """Frees all memory; the transformer cannot be run any more."""
        self.free_buffers()
        for weights in self._weights:
            weights.free()

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        backward = in_backward()
        for buffer in self._buffers:
            # Where a backward pass has ended: the gradients of its inputs are not asked for, so nothing has said so.
            if not backward and buffer.block != index:
                self._detach(buffer)
        self._attach(index)
        neighbour = index - 1 if backward else index + 1
        if 0 <= neighbour < len(self._weights):
            self._prefetch(neighbour)
        if backward or not torch.is_grad_enabled():
            return None
        return self._watched(index, args, kwargs)

    def _after(self, index: int, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not in_backward():  # else the gradients of this block are still to come
            self._leave(index)

    def _watched(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Lets the weights go in the backward pass when the gradients of a block's inputs are there."""
        every = [*args, *kwargs.values()]
        wanted = [at for at, value in enumerate(every) if isinstance(value, torch.Tensor) and value.requires_grad]
        if wanted:
            passed = _BlockInputs.apply(partial(self._leave, index), *(every[at] for at in wanted))
            for at, value in zip(wanted, passed, strict=True):
                every[at] = value
        return tuple(every[: len(args)]), dict(zip(kwargs, every[len(args) :], strict=True))

    def _attach(self, index: int) -> None:
        self._prefetch(index)
        buffer = self._holding(index)
        assert buffer is not None, "all buffers are in use"
        if not buffer.attached and buffer.data is not None:
            self._host.wait(buffer.copied)
            self._weights[index].attach(buffer.data)
            buffer.attached = True

    def _leave(self, index: int) -> None:
        if buffer := self._holding(index):
            self._detach(buffer)

    def _detach(self, buffer: DeviceBuffer) -> None:
        """The weights stay in the buffer, in case that the same block is next, but the buffer may be used again."""
        if buffer.attached and buffer.block is not None:
            self._weights[buffer.block].detach()
            buffer.computed = self._host.computed()
            buffer.attached = False

    def _prefetch(self, index: int) -> None:
        """Begins to copy a block's weights, if they are not there and a buffer is not in use."""
        buffer = next((buffer for buffer in self._buffers if not buffer.attached), None)
        if self._holding(index) or buffer is None:
            return
        if buffer.data is None:
            buffer.data = self._host.empty_on_device(max(weights.nbytes for weights in self._weights))
            buffer.computed = self._host.computed()  # with whatever had this memory before
        weights = self._weights[index]
        buffer.block = index
        buffer.copied = self._host.copy(buffer.data[: weights.nbytes], weights.on_host, buffer.computed)

    def _holding(self, index: int) -> DeviceBuffer | None:
        return next((buffer for buffer in self._buffers if buffer.block == index), None)


class _BlockInputs(torch.autograd.Function):
    """Passes a block's inputs on, and calls a function in the backward pass when the block is done.

    Hooks on the inputs would come too late: autograd calls them when it gets to what has made each input, which may be
    after the previous block has begun. FSDP2 does the same (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py).
    """

    @staticmethod
    def forward(ctx: Any, done: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.done = done
        ctx.set_materialize_grads(False)
        return inputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        ctx.done()
        return None, *gradients


def in_backward() -> bool:
    """Whether a block is being computed again by a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)
