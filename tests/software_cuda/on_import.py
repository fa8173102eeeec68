"""Installs the device when a process imports torch, and sets some other modules up for it. Costs nothing before."""

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

AFTER: dict[str, Callable[[ModuleType], None]] = {}
"""Called after the module of this name was imported."""
AROUND: dict[str, Callable[[Callable[[], None]], None]] = {}
"""Called instead of the import, which it is given."""


class _Finder:
    """Calls `AFTER` and `AROUND`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in AFTER and name not in AROUND:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            around, after = AROUND.pop(name, None), AFTER.pop(name, None)
            around(lambda: execute(module)) if around else execute(module)
            if after:
                after(module)

        spec.loader.exec_module = exec_module
        return spec


def install_with_torch() -> None:
    """From now on, importing torch installs the device."""
    AFTER["torch"] = _install
    AFTER["torch.distributed.distributed_c10d"] = _offer_nccl
    AROUND["bitsandbytes"] = _without_gpu
    AFTER["cogvx_exp.launch.preflight"] = lambda module: setattr(module, "GPU_DEVICES", ("/proc/self",))
    if "SOFTWARE_CUDA_PARK" in os.environ:
        size = int(os.environ["SOFTWARE_CUDA_PARK"])
        AFTER["cogvx_exp.model.offload.blocks"] = lambda module: setattr(module, "WORTH_PARKING", size)
    sys.meta_path.insert(0, _Finder())


def _install(torch: ModuleType) -> None:
    from tests.software_cuda.install import install

    install()


def _without_gpu(run_import: Callable[[], None]) -> None:
    """bitsandbytes keeps its CPU and default kernels, which serve CUDA tensors through the fallback."""
    import torch

    available, version = torch.cuda.is_available, torch.version.cuda
    torch.cuda.is_available, torch.version.cuda = (lambda: False), None
    try:
        run_import()
    finally:
        torch.cuda.is_available, torch.version.cuda = available, version


def _offer_nccl(c10d: ModuleType) -> None:
    """A backend named nccl that takes CUDA tensors only, and sends them through gloo."""

    class Kind(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return hasattr(instance, "getBackendName") or getattr(instance, "name", lambda: "")() == "nccl"

    class Options:
        is_high_priority_stream = False
        split_from = None

    class ProcessGroupNCCL(metaclass=Kind):
        def __new__(cls, store: Any, rank: int, size: int, options: Any = None) -> Any:
            import torch

            gloo = c10d.ProcessGroupGloo(store, rank, size, timeout=options._timeout)
            return torch._C._software_cuda.nccl_over(gloo)

    ProcessGroupNCCL.Options = Options
    c10d.ProcessGroupNCCL, c10d._NCCL_AVAILABLE = ProcessGroupNCCL, True
