"""How the transformer's blocks are run while training: what they keep, compute again, or fetch from the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from cogvx_exp.config.schema import Memory
from cogvx_exp.model.host_memory import HostMemory, Parked

ATTENTION = [
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""The kernels of attention: their outputs are kept by `selective`."""

WORTH_PARKING = 1 << 20
"""Values of a tensor from which moving it to the host is worth the trouble."""


def arrange_blocks(
    transformer: CogVideoXTransformer3DModel, memory: Memory, device: torch.device, host: HostMemory | None = None
) -> None:
    """Sets how all blocks are run from now on. `host`: where tensors are parked, if not in the device's host."""
    host = host or HostMemory(device)
    if memory.norms == "model":
        for module in transformer.modules():
            if type(module) is nn.LayerNorm:
                module.forward = partial(_norm, module)  # type: ignore[method-assign]
    if memory.ff_chunks > 1:
        for block in transformer.transformer_blocks:
            block.ff.forward = partial(_chunked, block.ff.forward, memory.ff_chunks)
    if memory.stream_blocks:
        BlockStream(transformer, host)
    if memory.activations != "keep":
        transformer.enable_gradient_checkpointing(_runner(memory.activations, host))


def _runner(activations: str, host: HostMemory) -> Callable[..., Any]:
    """The function that diffusers runs each block with."""
    if activations == "selective":
        contexts = partial(create_selective_checkpoint_contexts, ATTENTION)
        return partial(checkpoint, use_reentrant=False, context_fn=contexts)
    run = partial(checkpoint, use_reentrant=False)
    if activations == "checkpoint":
        return run
    offload = BlockInputs(host)

    def run_offloaded(*args: Any) -> Any:
        with offload:
            return run(*args)

    return run_offloaded


def _norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """A layer norm in the type of its input, as in the diffusers pipelines; autocast would make it float32 on a GPU.

    The kernel computes mean and variance in float32 either way.
    """
    weight, bias = (None if value is None else value.to(x.dtype) for value in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _chunked(forward: Callable[..., torch.Tensor], chunks: int, hidden_states: torch.Tensor) -> torch.Tensor:
    """A feed-forward layer, a part of the tokens (dimension 1) at a time."""
    parts = hidden_states.chunk(chunks, dim=1)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(forward, part, use_reentrant=False) for part in parts], dim=1)
    return torch.cat([forward(part) for part in parts], dim=1)


class BlockInputs(saved_tensors_hooks):
    """Inside, large tensors that autograd saves wait in host memory for the backward pass.

    Around a checkpointed block those are the block's inputs. When they are needed, those of the block before it,
    which are needed next, begin to come.
    """

    def __init__(self, host: HostMemory):
        super().__init__(self._pack, self._unpack)
        self._host = host
        self._blocks: list[list[Parked]] = []

    def __enter__(self) -> None:
        self._blocks.append([])
        super().__enter__()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | Parked:
        if tensor.numel() < WORTH_PARKING:
            return tensor
        parked = self._host.park(tensor)
        self._blocks[-1].append(parked)
        return parked

    def _unpack(self, saved: torch.Tensor | Parked) -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        while self._blocks and (saved in self._blocks[-1] or not self._blocks[-1]):
            self._blocks.pop()
            for parked in self._blocks[-1] if self._blocks else []:
                self._host.fetch(parked)
        return self._host.take(saved)


class BlockStream:
    """Frozen weights of the blocks wait in host memory; each block's come to the device when it is run.

    The next block's weights (in the backward pass the previous one's) come while one block computes, so that
    two blocks are on the device at a time. Needs activations to be computed again: between a block's forward
    and backward pass its weights are not there.
    """

    def __init__(self, transformer: CogVideoXTransformer3DModel, host: HostMemory):
        self._host = host
        self._blocks = list(transformer.transformer_blocks)
        self._weights: list[list[tuple[nn.Parameter, Parked]]] = []
        self._on_device = [True] * len(self._blocks)
        for index, block in enumerate(self._blocks):
            # One at a time: two copies of all blocks might not fit the host.
            frozen = (weight for weight in block.parameters() if not weight.requires_grad)
            self._weights.append([(weight, host.park(weight.data)) for weight in frozen])
            self._leave(index)
            for parameter in block.parameters():  # an adapter, which was made where its base was
                parameter.data = parameter.data.to(host.device)
            block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)
            block.register_forward_hook(partial(self._after, index), always_call=True)

    def _before(self, index: int, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._arrive(index)
        neighbour = index - 1 if _in_backward() else index + 1
        if 0 <= neighbour < len(self._blocks) and not self._on_device[neighbour]:
            for _, parked in self._weights[neighbour]:
                self._host.fetch(parked)
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        inputs = [value for value in inputs if value.requires_grad]
        if inputs and not _in_backward():
            register_multi_grad_hook(inputs, lambda gradients: self._leave(index))

    def _after(self, index: int, block: nn.Module, args: tuple, output: Any) -> None:
        if not _in_backward():  # else the gradients of this block are still to come
            self._leave(index)

    def _arrive(self, index: int) -> None:
        if not self._on_device[index]:
            for weight, parked in self._weights[index]:
                weight.data = self._host.take(parked)
        self._on_device[index] = True

    def _leave(self, index: int) -> None:
        for weight, _ in self._weights[index]:
            weight.data = torch.empty(0, dtype=weight.dtype, device=self._host.device)
        self._on_device[index] = False


def _in_backward() -> bool:
    """Whether a block is being computed again by a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)
