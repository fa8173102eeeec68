"""Where and in which type a model computes."""

import os
from dataclasses import dataclass

import torch

from cogvx_exp.config.schema import Model
from cogvx_exp.errors import UserError


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
    """Resolves `auto`.

    Raises:
        UserError: a GPU was asked for and there is none, or float16 was asked for without a GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: this machine has no CUDA GPU that torch {torch.__version__} can use")
    # Some library functions import DeepSpeed, which otherwise warns that it looked for a GPU in vain.
    os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])
    return Compute(torch.device(device), resolve_dtype(model, device))


def release(device: torch.device) -> None:
    """Gives memory of deleted tensors back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
