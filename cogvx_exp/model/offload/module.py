"""Moves a model off the GPU, temporarily in a way that training survives, or permanently."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from cogvx_exp.model.device import release

_COPIES: "WeakKeyDictionary[nn.Module, dict[int, _HostCopy]]" = WeakKeyDictionary()
"""Copies in pinned memory, by model and storage.

They are kept between offloads for the lifetime of the model: 10.4 GiB for a 5b. Pinning that much takes seconds because
all pages are locked, frozen weights need to be copied only once, and torch's allocator keeps freed pinned memory
anyway. The host needed as much while the model was loaded, and the prediction includes it (`cogvx_exp.estimate`).
"""


@dataclass(frozen=True)
class _HostCopy:
    """A storage on the device and its copy in pinned memory."""

    storage: torch.UntypedStorage
    on_host: torch.Tensor


@contextmanager
def on_host(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Keeps a module's weights in host memory inside the block. Weights without values (streamed blocks) stay that way.

    The tensors stay the same objects; only their memory is freed and reallocated. `Module.to` would give trained
    weights new gradient accumulators (torch/csrc/autograd/variable.cpp, `VariableHooks::set_data`, for a different
    device or dtype). DistributedDataParallel's hooks, which average gradients, are attached to the old ones: training
    would continue without averaging and without an error (https://github.com/pytorch/pytorch/issues/104336).

    All copies are queued on the computation's stream, which orders them with other uses of the memory.
    """
    copies = _COPIES.setdefault(module, {})
    if stream := getattr(module, "block_stream", None):
        # The block weights are in host memory already; only their device buffers have to go.
        stream.free_buffers()
    storages = _storages(module, device)
    for key, (storage, frozen) in storages.items():
        if key not in copies:
            pinned = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=True)
            copies[key] = _HostCopy(storage, pinned)
        elif frozen:
            continue
        # By storage, not by tensor: views and tied weights would be copied twice and come back untied.
        copies[key].on_host.copy_(_content(storage), non_blocking=True)
    for key in copies.keys() - storages.keys():  # parameters that have been replaced
        del copies[key]
    for storage, _ in storages.values():
        # The copies are only queued, but memory freed here is reused on the same stream, so after they have run.
        storage.resize_(0)
    release(device)
    try:
        yield
    finally:
        for key, (storage, _) in storages.items():
            storage.resize_(copies[key].on_host.nbytes)
            # Not waited for: the pinned copy is kept, and the next kernels are queued behind it.
            _content(storage).copy_(copies[key].on_host, non_blocking=True)


def free_weights(module: nn.Module, device: torch.device) -> None:
    """Frees the memory of a model that is no longer used, on a GPU and on its host."""
    if stream := getattr(module, "block_stream", None):
        stream.free()
    _COPIES.pop(module, None)
    for storage, _ in _storages(module, device).values():
        storage.resize_(0)
    release(device)
    if device.type != "cuda":
        return
    # torch keeps freed pinned memory for tensors of the same size, but the next model is loaded into pageable memory.
    if empty_host_cache := getattr(torch.accelerator, "empty_host_cache", None):  # torch 2.13
        empty_host_cache()


def _storages(module: nn.Module, device: torch.device) -> dict[int, tuple[torch.UntypedStorage, bool]]:
    """The storages of a module on a device, each with whether it only holds frozen weights."""
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FSDPModule

        for part in module.modules():
            if isinstance(part, FSDPModule):
                FSDPModule.reshard(part)  # otherwise the parameters are FSDP's temporary buffers
    storages: dict[int, tuple[torch.UntypedStorage, bool]] = {}
    frozen = {id(parameter) for parameter in module.parameters() if not parameter.requires_grad}
    for tensor in (*module.parameters(), *module.buffers()):
        for plain in _plain_tensors(tensor):
            storage = plain.untyped_storage()
            # Empty storages belong to streamed blocks, whose weights are in `FlatWeights`.
            if plain.device.type == device.type == "cuda" and storage.nbytes():
                # The StorageImpl's address: `data_ptr` changes with `resize_`.
                key = storage._cdata
                storages[key] = storage, id(tensor) in frozen and storages.get(key, (None, True))[1]
    return storages


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors inside a tensor: DTensor and torchao's packed types wrap others, Params4bit also has scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        for part in parts:
            if isinstance(part, torch.Tensor):  # a DTensor also has a mesh
                yield from _plain_tensors(part)
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)  # bitsandbytes; its scales may be quantized, too
    while state is not None:
        yield from (value for value in (state.absmax, state.code, state.offset) if isinstance(value, torch.Tensor))
        state = state.state2


def _content(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of a storage, as a tensor."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
