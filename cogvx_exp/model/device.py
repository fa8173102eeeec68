"""Device and dtype of the computation."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass

import torch

from cogvx_exp.config.schema import Model
from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.process_group import ProcessGroup

ROUND_PINNED_MEMORY = "pinned_max_round_threshold_mb:1"
"""Pinned tensors above 1 MiB take only the memory they need. By default each is rounded up to a power of two
(ATen/core/CachingHostAllocator.h): a 5b's 41.5 GiB of optimizer states would take 73.7."""


@dataclass(frozen=True)
class Compute:
    """A device and the dtype of the frozen weights."""

    device: torch.device
    dtype: torch.dtype

    @property
    def mixed_precision(self) -> str:
        """accelerate's name of `dtype`."""
        return {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> torch.autocast:
        """Mixed precision outside of the training loop; disabled for float32.

        Autocast's cache would keep 16-bit copies of all float32 weights until the end of the context. Each weight is
        used once per pass, so the cache gains nothing.
        """
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=False)


def resolve_dtype(model: Model, device: str) -> torch.dtype:
    """The dtype a model computes in: its native dtype by default. CPUs do not use float16.

    Raises:
        UserError: float16 was requested on a CPU.
    """
    dtype = model.native_dtype if model.dtype == "auto" else model.dtype
    if dtype == "float16" and device == "cpu":
        if model.dtype != "auto":
            raise UserError("model.dtype=float16 needs a GPU; on a CPU use model.dtype=float32 or auto")
        dtype = "float32"
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def choose_compute(device: str, model: Model) -> Compute:
    """Resolves `auto`, and makes a GPU this process's current one.

    Libraries use the current GPU regardless of tensors' devices: the pin-memory thread, torchao's streams, nccl.

    Raises:
        UserError: a GPU was requested but there is none, or float16 without a GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: this machine has no CUDA GPU that torch {torch.__version__} can use")
    # Some library functions import DeepSpeed, which otherwise warns that it found no GPU.
    os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])
    if device.startswith("cuda"):
        _choose_gpu(device)
    return Compute(torch.device(device), resolve_dtype(model, device))


def _choose_gpu(device: str) -> None:
    """Makes a GPU the current one, and configures its host allocator.

    Raises:
        UserError: there are not that many.
    """
    gpu, count = torch.device(device), torch.cuda.device_count()
    if gpu.index is not None and gpu.index >= count:
        raise UserError(f"device={device}: this machine has {count} CUDA GPU(s), numbered from 0")
    if gpu.index is not None:
        torch.cuda.set_device(gpu)
    with suppress(RuntimeError, ValueError):  # torch 2.11 lacks this setting and rounds up
        torch._C._accelerator_setAllocatorSettings(ROUND_PINNED_MEMORY)


def check_devices(processes: ProcessGroup, device: torch.device) -> None:
    """Checks that no two processes of a job share a GPU, where nccl would fail with an obscure error.

    Raises:
        UserError: two processes do.
    """
    if processes.world_size == 1 or device.type != "cuda":
        return
    # By UUID: under Slurm or CUDA_VISIBLE_DEVICES, different GPUs can have the same index.
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
    """The name of a device's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def release(device: torch.device) -> None:
    """Returns memory of freed tensors to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
