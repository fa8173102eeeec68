"""How the transformer's blocks run in training: what is kept, recomputed or fetched from the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention import FeedForward
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from cogvx_exp.config.schema import Memory
from cogvx_exp.model.offload.host_memory import HostMemory, OffloadedTensor
from cogvx_exp.model.offload.streamed_blocks import BlockStream

ATTENTION = [
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""Attention kernels, whose outputs `selective` keeps."""

WORTH_PARKING = 1 << 20
"""Minimum number of values of an offloaded tensor: smaller ones save little."""


def apply_memory_options(
    transformer: CogVideoXTransformer3DModel, memory: Memory, device: torch.device, host: HostMemory | None = None
) -> None:
    """Applies the memory options to all blocks. `host`: target of offloading, by default the host of `device`."""
    host = host or HostMemory(device)
    # Classes rather than functions on the instances, which torch.compile would compile for each block anew.
    if memory.norms == "model":
        for module in transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.__class__ = ModelTypeNorm
    if memory.ff_chunks > 1:
        for block in transformer.transformer_blocks:
            block.ff.__class__, block.ff.chunks = ChunkedFeedForward, memory.ff_chunks
    if memory.stream_blocks:
        BlockStream(transformer, host)
    if memory.activations != "keep":
        # diffusers' own hook runs each block through this function, so the model's forward pass is not copied here.
        transformer.enable_gradient_checkpointing(_runner(memory.activations, host))


def _runner(activations: str, host: HostMemory) -> Callable[..., Any]:
    """The function with which diffusers runs each block."""
    if activations == "selective":
        # Selective checkpointing matches dispatched operators: kernels that are not in the list are recomputed.
        contexts = partial(create_selective_checkpoint_contexts, ATTENTION)
        return partial(checkpoint, use_reentrant=False, context_fn=contexts)
    # Non-reentrant: the reentrant variant needs inputs that require gradients, and a frozen model's first block has
    # none.
    run = partial(checkpoint, use_reentrant=False)
    if activations == "checkpoint":
        return run
    offloaded = OffloadedInputs(host)

    def run_offloaded(*args: Any) -> Any:
        with offloaded:
            return run(*args)

    return run_offloaded


class ModelTypeNorm(nn.LayerNorm):
    """A layer norm in the dtype of its input, as in the diffusers pipelines; autocast would return float32 on a GPU.

    The kernel computes mean and variance in float32 either way.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of `x`."""
        weight, bias = (None if value is None else value.to(x.dtype) for value in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class ChunkedFeedForward(FeedForward):
    """A feed-forward layer that runs on chunks of the tokens (dimension 1)."""

    chunks: int

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The result for (B, tokens, channels)."""
        parts, whole = hidden_states.chunk(self.chunks, dim=1), super().forward
        if torch.is_grad_enabled():
            # Without recomputation, autograd would keep the hidden activations of every chunk, and chunking would save
            # nothing.
            return torch.cat([checkpoint(whole, part, use_reentrant=False) for part in parts], dim=1)
        return torch.cat([whole(part) for part in parts], dim=1)


class OffloadedInputs(saved_tensors_hooks):
    """Offloads large tensors saved by autograd to host memory until the backward pass.

    Around a checkpointed block these are the block's inputs. They are released on the device after the block has run,
    which is also when its caller drops them. In the backward pass, the inputs of the previous block are prefetched
    while a block is recomputed.
    """

    def __init__(self, host: HostMemory):
        super().__init__(self._pack, self._unpack)
        self._host = host
        self._blocks: list[list[OffloadedTensor]] = []

    def __enter__(self) -> None:
        # One list per block: the backward pass prefetches by block, in reverse order.
        self._blocks.append([])
        super().__enter__()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        for offloaded in self._blocks[-1]:
            self._host.release(offloaded)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | OffloadedTensor:
        if tensor.numel() < WORTH_PARKING:
            return tensor
        # The copy overlaps with the block's computation; `__exit__` makes the stream wait for its end.
        offloaded = self._host.offload(tensor)
        self._blocks[-1].append(offloaded)
        return offloaded

    def _unpack(self, saved: torch.Tensor | OffloadedTensor) -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        # The backward pass reaches this block for the first time: prefetch the inputs of the one before it.
        while self._blocks and (saved in self._blocks[-1] or not self._blocks[-1]):
            self._blocks.pop()
            for offloaded in self._blocks[-1] if self._blocks else []:
                self._host.prefetch(offloaded)
        return self._host.fetch(saved)
