"""Where and in which type a model computes."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass

import torch

from cogvx_exp.config.schema import Model
from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.process_group import ProcessGroup

ROUND_PINNED_MEMORY = "pinned_max_round_threshold_mb:1"
"""Pinned tensors above 1 MiB take the memory they need. By default each is rounded up to a power of two
(ATen/core/CachingHostAllocator.h): 41.5 GiB of optimizer states of a 5b would take 73.7."""


@dataclass(frozen=True)
class Compute:
    """A device and the type of the frozen weights."""

    device: torch.device
    dtype: torch.dtype

    @property
    def mixed_precision(self) -> str:
        """The name accelerate has for `dtype`."""
        return {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> torch.autocast:
        """Mixed precision outside of the training loop; nothing in float32.

        Autocast would keep the copies of float32 weights until the end, all of them. Each is used once a pass, so
        that gains nothing.
        """
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=False)


def resolve_dtype(model: Model, device: str) -> torch.dtype:
    """The type a model computes in: the native one unless another is asked for; a CPU has no use for float16.

    Raises:
        UserError: float16 was asked for on a CPU.
    """
    dtype = model.native_dtype if model.dtype == "auto" else model.dtype
    if dtype == "float16" and device == "cpu":
        if model.dtype != "auto":
            raise UserError("model.dtype=float16 needs a GPU; on a CPU use model.dtype=float32 or auto")
        dtype = "float32"
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def choose_compute(device: str, model: Model) -> Compute:
    """Resolves `auto`, and makes a GPU the current one of this process.

    Libraries use the current GPU, whatever GPU a tensor is on: the thread that pins memory, torchao's streams, nccl.

    Raises:
        UserError: a GPU was asked for and there is none, or float16 was asked for without a GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: this machine has no CUDA GPU that torch {torch.__version__} can use")
    # Some library functions import DeepSpeed, which otherwise warns that it looked for a GPU in vain.
    os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])
    if device.startswith("cuda"):
        _choose_gpu(device)
    return Compute(torch.device(device), resolve_dtype(model, device))


def _choose_gpu(device: str) -> None:
    """Makes a GPU the current one, and sets its host allocator up.

    Raises:
        UserError: there are not as many.
    """
    gpu, count = torch.device(device), torch.cuda.device_count()
    if gpu.index is not None and gpu.index >= count:
        raise UserError(f"device={device}: this machine has {count} CUDA GPU(s), numbered from 0")
    if gpu.index is not None:
        torch.cuda.set_device(gpu)
    with suppress(RuntimeError, ValueError):  # a version of torch without this setting (2.11) rounds up
        torch._C._accelerator_setAllocatorSettings(ROUND_PINNED_MEMORY)


def check_devices(processes: ProcessGroup, device: torch.device) -> None:
    """Makes sure that no two processes of a job are on one GPU, where nccl fails with an error of its own.

    Raises:
        UserError: two are.
    """
    if processes.world == 1 or device.type != "cuda":
        return
    gpu = f"{platform.node()} {torch.cuda.get_device_properties(device).uuid}"
    gathered = processes.all_gather(gpu)
    for rank, other in enumerate(gathered):
        first = gathered.index(other)
        if first != rank:
            host = other.partition(" ")[0]
            gpus = {name for name in gathered if name.partition(" ")[0] == host}
            raise UserError(
                f"processes {first} and {rank} would share one GPU: {gathered.count(other)} processes on {host} found "
                f"{len(gpus)} GPU(s); set distributed.processes to the number of GPUs"
            )


def device_name(device: torch.device) -> str:
    """What kind of device it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def release(device: torch.device) -> None:
    """Gives memory of deleted tensors back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
