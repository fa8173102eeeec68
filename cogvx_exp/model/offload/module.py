"""Takes a model off the GPU for a while, in a way that training survives, or for good."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from cogvx_exp.model.device import release

_COPIES: "WeakKeyDictionary[nn.Module, dict[int, _HostCopy]]" = WeakKeyDictionary()
"""By model: the copies in pinned memory, by storage.

They stay there between offloads, as long as the model: 10.4 GiB for a 5b. Pinning that takes seconds each time (all
pages are locked), frozen weights have to be copied only once, and torch's allocator keeps freed pinned memory anyway.
The host has held as much while the model was loaded, and what stays there is predicted (`cogvx_exp.estimate`).
"""


@dataclass(frozen=True)
class _HostCopy:
    """A storage of the device and its copy in pinned memory."""

    storage: torch.UntypedStorage
    on_host: torch.Tensor


@contextmanager
def on_host(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the weights of a module are in host memory. Weights that have no values (streamed blocks') stay so.

    The tensors stay the same, and only the memory behind them is freed and allocated again. `Module.to` would give
    trained weights new gradient accumulators (torch/csrc/autograd/variable.cpp, `VariableHooks::set_data`, for another
    device or type), and the hooks by which DistributedDataParallel averages gradients hang on the old ones: training
    would go on without averaging, and without an error (https://github.com/pytorch/pytorch/issues/104336).

    All copies are queued on the computation's stream, which orders them with whatever uses the memory.
    """
    copies = _COPIES.setdefault(module, {})
    if stream := getattr(module, "block_stream", None):
        stream.free_buffers()
    storages = _storages(module, device)
    for key, (storage, frozen) in storages.items():
        if key not in copies:
            pinned = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=True)
            copies[key] = _HostCopy(storage, pinned)
        elif frozen:
            continue
        copies[key].on_host.copy_(_content(storage), non_blocking=True)
    for key in copies.keys() - storages.keys():  # of parameters that have been replaced
        del copies[key]
    for storage, _ in storages.values():
        storage.resize_(0)
    release(device)
    try:
        yield
    finally:
        for key, (storage, _) in storages.items():
            storage.resize_(copies[key].on_host.nbytes)
            _content(storage).copy_(copies[key].on_host, non_blocking=True)


def free_weights(module: nn.Module, device: torch.device) -> None:
    """Frees the memory of a model that is not used any more, on a GPU and on its host."""
    if stream := getattr(module, "block_stream", None):
        stream.free()
    _COPIES.pop(module, None)
    for storage, _ in _storages(module, device).values():
        storage.resize_(0)
    release(device)
    if device.type != "cuda":
        return
    # torch keeps freed pinned memory for the next tensor of that size. What is loaded next is pageable at first.
    if empty_host_cache := getattr(torch.accelerator, "empty_host_cache", None):  # torch 2.13
        empty_host_cache()


def _storages(module: nn.Module, device: torch.device) -> dict[int, tuple[torch.UntypedStorage, bool]]:
    """The memory of a module on a device, each with whether it holds nothing but frozen weights."""
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FSDPModule

        for part in module.modules():
            if isinstance(part, FSDPModule):
                FSDPModule.reshard(part)  # else the parameters are buffers of FSDP, which come and go
    found: dict[int, tuple[torch.UntypedStorage, bool]] = {}
    frozen = {id(parameter) for parameter in module.parameters() if not parameter.requires_grad}
    for tensor in (*module.parameters(), *module.buffers()):
        for plain in _plain_tensors(tensor):
            storage = plain.untyped_storage()
            if plain.device.type == device.type == "cuda" and storage.nbytes():
                key = storage._cdata
                found[key] = storage, id(tensor) in frozen and found.get(key, (None, True))[1]
    return found


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a tensor consists of: DTensor and torchao's packed types of other tensors, Params4bit has scales besides."""
    if hasattr(tensor, "__tensor_flatten__"):
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        for part in parts:
            if isinstance(part, torch.Tensor):  # a DTensor also has its mesh
                yield from _plain_tensors(part)
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)  # of bitsandbytes, whose scales may have scales
    while state is not None:
        yield from (value for value in (state.absmax, state.code, state.offset) if isinstance(value, torch.Tensor))
        state = state.state2


def _content(storage: torch.UntypedStorage) -> torch.Tensor:
    """All bytes of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
