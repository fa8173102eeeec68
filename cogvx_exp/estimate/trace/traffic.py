"""Counts the bytes that operations read and write, in passes with fake tensors."""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.estimate.trace.fake_models import (
    TrackedHostMemory,
    fake_batch,
    fake_tensors,
    fake_transformer,
    materialize,
    norm_as_on_cuda,
    with_depth,
)
from cogvx_exp.estimate.trace.memory_tracker import KINDS
from cogvx_exp.model.device import Compute, resolve_dtype
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.positions import rotary_positions
from cogvx_exp.strategies.micro_batch import forward_backward

aten = torch.ops.aten
PRODUCTS = {"linear layers": "products", "convolutions": "products", "attention": "attention"}
"""Compute-bound operations. All others are elementwise: their time depends on bytes."""
FREE = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)
NOT_READ = (aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full)
"""Operations that only use the shape of their input."""
OVERWRITE = (aten.copy_, aten.fill_, aten.zero_)
"""In-place operations that do not read the old values."""


@dataclass
class Traffic:
    """Bytes read and written and numbers of operations, by kind: elementwise, products, attention."""

    bytes: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    by_operator: Counter[str] = field(default_factory=Counter)
    """Bytes of elementwise operations, by name."""

    def plus(self, other: "Traffic", times: int) -> "Traffic":
        """This and `times` the other."""
        pairs = ((getattr(self, item.name), getattr(other, item.name)) for item in fields(self))
        return Traffic(*(Counter({key: a[key] + times * b[key] for key in a | b}) for a, b in pairs))


@dataclass(frozen=True)
class PassTraffic:
    """Traffic of a forward and backward pass."""

    forward: Traffic
    backward: Traffic
    """Includes recomputation."""

    def plus(self, other: "PassTraffic", times: int) -> "PassTraffic":
        """This and `times` the other."""
        return PassTraffic(self.forward.plus(other.forward, times), self.backward.plus(other.backward, times))


class TrafficCounter(TorchDispatchMode):
    """Adds up the bytes that operations read and write: each input and each output tensor once.

    Views are free; tensors changed in place are read and written. Caches and fusion are not modelled: on a GPU, each of
    these operations is a separate kernel, and its tensors are larger than the cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        # Allocating touches no memory.
        moved = 0 if packet in FREE else _moved(function, _tensors((args, kwargs)), _tensors(result))
        if moved:
            kinds = (name for name, packets in KINDS.items() if packet in packets)
            kind = PRODUCTS.get(next(kinds, ""), "elementwise")
            self.traffic.bytes[kind] += moved
            self.traffic.operators[kind] += 1
            if kind == "elementwise":
                self.traffic.by_operator[str(packet).removeprefix("aten.")] += moved
        return result


def _moved(function: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
    if not outputs:  # a query, such as for the device
        return 0
    packet = function.overloadpacket
    storages = {tensor.untyped_storage()._cdata for tensor in inputs}
    if not function._schema.is_mutable:
        if packet in NOT_READ:
            inputs = []
        # By storage: a view has its own tensor, but nothing is copied.
        elif any(tensor.untyped_storage()._cdata in storages for tensor in outputs):
            return 0  # a view
    elif packet in OVERWRITE:
        inputs = inputs[1:]
    return sum(map(_size, inputs)) + sum(map(_size, outputs))


def _tensors(values: Any) -> list[torch.Tensor]:
    """The distinct tensors among arguments."""
    return list({id(value): value for value in tree_leaves(values) if isinstance(value, torch.Tensor)}.values())


def _size(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; expanded dimensions count once."""
    values = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        values *= size if stride else min(size, 1)
    return values * tensor.element_size()


def block_traffic(job: TrainJob, shape: Bucket, device: str = "cuda") -> PassTraffic:
    """Traffic that one block adds to a forward and backward pass.

    Args:
        job: a checked job.
        shape: shape of the clips.
        device: cuda or cpu; autocast on a CPU keeps layer norms in the lower dtype.
    """
    one_block, two_blocks = (trace_pass(with_depth(job, depth), shape, device) for depth in (1, 2))
    return two_blocks.plus(one_block, -1)


def pass_traffic(job: TrainJob, shape: Bucket, device: str = "cuda") -> PassTraffic:
    """Traffic of a whole forward and backward pass, extrapolated from two depths since all blocks are alike."""
    one_block, two_blocks = (trace_pass(with_depth(job, depth), shape, device) for depth in (1, 2))
    return one_block.plus(two_blocks.plus(one_block, -1), job.model.transformer.num_layers - 1)


def trace_pass(job: TrainJob, shape: Bucket, device: str) -> PassTraffic:
    """Traces a forward and backward pass of a model with fake tensors."""
    compute = Compute(torch.device("cpu"), resolve_dtype(job.model, device))
    transformer = fake_transformer(job, compute.dtype, {shape})
    config = dict(transformer.config)
    if device == "cuda":
        norm_as_on_cuda(transformer)
    with fake_tensors() as tracker:
        materialize(transformer, tracker, "weights")
        apply_memory_options(transformer.train(), job.memory, compute.device, TrackedHostMemory(tracker))
        loss = denoising_loss(torch.empty(job.model.scheduler.num_train_timesteps), config, compute.dtype)
        batch = fake_batch(job, shape, job.batch_size)
        frames, _, height, width = batch.latents.shape[1:]
        rotary_positions(config, (frames, height, width), compute.device)  # cached, so later steps do not compute them
        passes = _CountedPasses(transformer, compute)
        with passes.counter:
            forward_backward(passes, loss, batch, job.gradient_accumulation)
        return PassTraffic(passes.forward, passes.counter.traffic)


class _CountedPasses:
    """Runs passes like `cogvx_exp.strategies.single.Strategy` and counts the forward pass separately."""

    def __init__(self, transformer: torch.nn.Module, compute: Compute):
        self.model, self._compute = transformer, compute
        self.counter, self.forward = TrafficCounter(), Traffic()

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for the forward pass."""
        return self._compute.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulates the gradients of a loss."""
        self.forward, self.counter.traffic = self.counter.traffic, Traffic()
        loss.backward()
