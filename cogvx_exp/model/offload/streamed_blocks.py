"""Keeps frozen block weights in host memory and streams them to the device, block by block."""

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
"""One for the current block and one for the block being copied. A third would only help if some blocks took longer to
copy than others to compute, but all blocks are alike."""

ALIGNMENT = 256
"""Bytes; the alignment that separately allocated weights have, which torch's kernels and cuBLAS expect."""


class FlatWeights:
    """A block's frozen weights, in one contiguous buffer of host memory.

    A single pinned buffer needs one allocation and one copy per block, and only one rounding of its size.
    """

    def __init__(self, block: nn.Module, host: HostMemory):
        self._device = host.device
        # Trained weights stay on the device: the optimizer and its states need them there between passes.
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
        """Points the weights to a copy of the buffer on the device."""
        for weight, view in self._views(buffer):
            weight.data = view

    def detach(self) -> None:
        """Leaves the weights empty."""
        for weight in self._weights:
            # On the device, because DistributedDataParallel rejects models on two kinds of devices.
            weight.data = torch.empty(0, dtype=weight.dtype, device=self._device)

    def free(self) -> None:
        """Frees the host memory; the block can no longer be run."""
        self.detach()
        self.on_host = torch.empty(0, dtype=torch.uint8)

    def _views(self, buffer: torch.Tensor) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        for weight, shape, offset in zip(self._weights, self._shapes, self._offsets, strict=True):
            nbytes = shape.numel() * weight.element_size()
            # Bytes reinterpreted, so that a block's weights of several dtypes can share one buffer.
            yield weight, buffer[offset : offset + nbytes].view(weight.dtype).view(shape)


@dataclass(eq=False)
class DeviceBuffer:
    """Device memory for the weights of one block at a time."""

    data: torch.Tensor | None = None
    block: int | None = None
    """Index of the block whose weights are in it or being copied."""
    copied: torch.cuda.Event | None = None
    """Completion of that copy."""
    attached: bool = False
    """Whether the block may be computing with it."""
    computed: torch.cuda.Event | None = None
    """End of the previous block's computation with it, set once `attached` is false."""


class BlockStream:
    """Keeps the blocks' frozen weights in host memory; each block's are on the device only while it runs.

    While a block computes, the weights of the next one (in the backward pass, the previous one) are copied into one of
    `DEVICE_BUFFERS`. The copy stream waits for an event recorded after the last computation that used the buffer.
    Activations must be recomputed: a block's weights are not on the device between its forward and its backward pass.
    """

    def __init__(self, transformer: CogVideoXTransformer3DModel, host: HostMemory):
        self._host = host
        self._weights: list[FlatWeights] = []
        self._buffers = [DeviceBuffer() for _ in range(DEVICE_BUFFERS)]
        for index, block in enumerate(transformer.transformer_blocks):
            # Block by block: two copies of all blocks might not fit on the host.
            self._weights.append(FlatWeights(block, host))
            for parameter in block.parameters():  # adapters were created on the device of their base
                parameter.data = parameter.data.to(host.device)
            # Hooks rather than a wrapper, so that parameter names, and with them checkpoints, stay the same.
            block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)
            # Also after an exception, so that a block that failed does not keep its buffer.
            block.register_forward_hook(partial(self._after, index), always_call=True)
        transformer.block_stream = self

    def free_buffers(self) -> None:
        """Frees the device memory until the next pass."""
        for buffer in self._buffers:
            self._detach(buffer)
            self._host.wait(buffer.copied)  # the copy stream no longer uses the memory
            buffer.data, buffer.block, buffer.copied = None, None, None

    def free(self) -> None:
        """Frees all memory; the transformer can no longer be run."""
        self.free_buffers()
        for weights in self._weights:
            weights.free()

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        backward = in_backward()
        for buffer in self._buffers:
            # A backward pass may have ended unnoticed: `_watched` adds no node if the block's inputs need no gradients.
            if not backward and buffer.block != index:
                self._detach(buffer)
        # The stream waits here only if the prefetch is late.
        self._attach(index)
        # The backward pass visits the blocks in reverse.
        neighbour = index - 1 if backward else index + 1
        if 0 <= neighbour < len(self._weights):
            self._prefetch(neighbour)
        # A recomputation needs no node of its own: the one from the forward pass releases the weights.
        if backward or not torch.is_grad_enabled():
            return None
        return self._watched(index, args, kwargs)

    def _after(self, index: int, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not in_backward():  # otherwise this block's gradients are still to be computed
            self._leave(index)

    def _watched(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Releases the weights in the backward pass once the gradients of the block's inputs are computed."""
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
        """Allows the buffer to be reused. The weights stay in it in case the same block is next."""
        if buffer.attached and buffer.block is not None:
            self._weights[buffer.block].detach()
            buffer.computed = self._host.computed()
            buffer.attached = False

    def _prefetch(self, index: int) -> None:
        """Starts copying a block's weights, unless they are on the device or no buffer is free."""
        buffer = next((buffer for buffer in self._buffers if not buffer.attached), None)
        if self._holding(index) or buffer is None:
            return
        # At the first use and not before: a model that is only exported needs no device buffers.
        if buffer.data is None:
            # The largest block's size, so that either buffer can hold any block.
            buffer.data = self._host.empty_on_device(max(weights.nbytes for weights in self._weights))
            buffer.computed = self._host.computed()  # what used this memory before
        weights = self._weights[index]
        buffer.block = index
        buffer.copied = self._host.copy(buffer.data[: weights.nbytes], weights.on_host, buffer.computed)

    def _holding(self, index: int) -> DeviceBuffer | None:
        return next((buffer for buffer in self._buffers if buffer.block == index), None)


class _BlockInputs(torch.autograd.Function):
    """Passes a block's inputs through, and calls a function in the backward pass once the block is done.

    Hooks on the inputs would fire too late: autograd calls them when it reaches the node that produced each input,
    possibly after the previous block has started. FSDP2 uses the same technique
    (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py).
    """

    @staticmethod
    def forward(ctx: Any, done: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.done = done
        # Otherwise autograd would allocate zeros for inputs that receive no gradient.
        ctx.set_materialize_grads(False)
        return inputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        ctx.done()
        return None, *gradients


def in_backward() -> bool:
    """Whether a block is being recomputed by a backward pass."""
    # Private, but there is no public function; torch's own checkpointing uses it, too (torch/utils/checkpoint.py).
    return bool(torch._C._current_graph_task_id() != -1)
