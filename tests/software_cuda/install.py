"""Makes `cuda` a device of this process: loads the library and fills in what a CPU-only torch leaves out.

Written against torch 2.13, and resting on its internals: `tests/integration/test_software_cuda.py` checks it first.
"""

import importlib.machinery
import importlib.util
import os
import types
from collections.abc import Callable
from typing import Any

from tests.software_cuda.patches import add_storages, add_streams

NVTX = ("rangePushA", "rangePop", "rangeStartA", "rangeEnd", "deviceRangeStart", "deviceRangeEnd", "markA")
CUDA = 1
"""Of c10::DeviceType."""


def install() -> None:
    """Makes `cuda` a device of this process."""
    import torch
    from torch import _C

    if getattr(_C, "_software_cuda", None):
        return
    library = _load(os.environ["SOFTWARE_CUDA"])
    _C._software_cuda = library
    functions = _general(torch, library) | _memory(library) | _streams(library)
    for name, function in functions.items():
        setattr(_C, f"_cuda_{name}", function)
    cuda = torch.cuda
    _C._has_cuda, _C._cudart = True, _runtime(library)
    cuda._cudart = _C._cudart
    cuda._exchange_device, cuda._maybe_exchange_device = functions["exchangeDevice"], functions["maybeExchangeDevice"]
    cuda._is_in_bad_fork = functions["isInBadFork"]
    cuda._get_device_properties = _properties(library)
    cuda._device_count_nvml = lambda: -1
    # Checks of the build against the card's architecture, which are queued for the first use of the device.
    cuda._queued_calls[:] = [call for call in cuda._queued_calls if "_check_c" not in getattr(call[0], "__name__", "")]
    torch.version.cuda = os.environ.get("SOFTWARE_CUDA_VERSION", "12.8")
    import torch.cuda.nvtx

    torch.cuda.nvtx._nvtx = types.SimpleNamespace(**{name: lambda *_: 0 for name in NVTX})
    add_streams(torch)
    add_storages(torch)


def _load(path: str) -> Any:
    loader = importlib.machinery.ExtensionFileLoader("_software_cuda", path)
    spec = importlib.util.spec_from_loader("_software_cuda", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _general(torch: types.ModuleType, library: Any) -> dict[str, Callable]:
    """Functions of torch._C about devices and the build."""
    state = {"initialized": False, "forked": False}

    def initialize() -> None:
        state["initialized"] = True
        generators = tuple(library.default_generator(index) for index in range(library.device_count()))
        torch.cuda.default_generators = generators

    def after_fork() -> None:  # a real device cannot be used in a forked process either
        state["forked"] = state["initialized"]
        library.forget_initialized()

    os.register_at_fork(after_in_child=after_fork)
    return {
        "init": initialize,
        "isInBadFork": lambda: state["forked"],
        "getDeviceCount": library.device_count,
        "getDevice": library.get_device,
        "setDevice": library.set_device,
        "exchangeDevice": library.exchange_device,
        "maybeExchangeDevice": library.exchange_device,
        "hasPrimaryContext": lambda index: True,
        "canDeviceAccessPeer": lambda one, other: False,
        "getArchFlags": lambda: "sm_80 sm_86 sm_89 sm_90",
        "getCompiledVersion": lambda: 12080,
        "getCurrentBlasHandle": lambda: 0,
        "clearCublasWorkspaces": lambda: None,
        "isCurrentStreamCapturing": lambda: False,
        "ipc_collect": lambda: None,
        "set_sync_debug_mode": lambda mode: None,
        "get_sync_debug_mode": lambda: 0,
    }


def _streams(library: Any) -> dict[str, Callable]:
    """Functions of torch._C about streams."""
    return {
        "synchronize": lambda: library.synchronize(-1),
        "getCurrentStream": lambda index: (library.current_stream(index), index, CUDA),
        "getDefaultStream": lambda index: (0, index, CUDA),
        "getCurrentRawStream": library.current_stream,
        "setStream": lambda stream_id, device_index, device_type: library.set_stream(stream_id, device_index),
        "sleep": lambda cycles: None,
    }


def _memory(library: Any) -> dict[str, Callable]:
    """Functions of torch._C about memory."""

    def row(current: int, peak: int, allocated: int = 0, freed: int = 0) -> dict[str, dict[str, int]]:
        return {"all": {"current": current, "peak": peak, "allocated": allocated, "freed": freed}}

    def statistics(index: int) -> dict[str, Any]:
        used = library.usage(index)
        live, peak, count = used["live"], used["peak"], used["count"]
        return {
            "allocation": row(count, count, used["allocations"], used["frees"]),
            "allocated_bytes": row(live, peak, used["allocated"], used["allocated"] - live),
            "active_bytes": row(live, peak),
            "requested_bytes": row(live, peak),
            "reserved_bytes": row(used["reserved"], used["reserved_peak"]),
            "active": row(count, count),
            "inactive_split_bytes": row(0, 0),
            "inactive_split": row(0, 0),
            "segment": row(0, 0),
            "oversize_allocations": {"current": 0},
            "oversize_segments": {"current": 0},
            "max_split_size": -1,
            "num_ooms": used["ooms"],
            "num_alloc_retries": 0,
        }

    def of_host() -> dict[str, Any]:
        used = library.usage(0)
        return {"allocated_bytes": {"current": used["pinned"], "peak": used["pinned_peak"]}}

    return {
        "memoryStats": statistics,
        "resetPeakMemoryStats": library.reset_peak,
        "resetAccumulatedMemoryStats": lambda index: None,
        "emptyCache": library.empty_cache,
        "hostMemoryStats": of_host,
        "resetPeakHostMemoryStats": library.reset_pinned_peak,
        "getAllocatorBackend": lambda: "native",
        "memorySnapshot": lambda *_: {},
        "setMemoryFraction": lambda *_: None,
        "cudaCachingAllocator_is_enabled": lambda: True,
    }


def _runtime(library: Any) -> types.SimpleNamespace:
    """torch.cuda.cudart()."""

    def free_and_total(index: int) -> tuple[int, int]:
        used, taken = library.usage(index), int(os.environ.get("SOFTWARE_CUDA_TAKEN_MIB", "0")) << 20
        return used["total"] - used["reserved"] - taken, used["total"]

    return types.SimpleNamespace(
        cudaMemGetInfo=free_and_total,
        cudaHostRegister=lambda *_: 0,
        cudaHostUnregister=lambda *_: 0,
        cudaGetErrorString=str,
        cudaError=types.SimpleNamespace(success=0),
        cudaProfilerStart=lambda: 0,
        cudaProfilerStop=lambda: 0,
    )


def _properties(library: Any) -> Callable[[int], types.SimpleNamespace]:
    """What the device says of itself: by default, an RTX 4090 (compute capability 8.9)."""

    def properties(index: int) -> types.SimpleNamespace:
        major, minor = (int(part) for part in os.environ.get("SOFTWARE_CUDA_CAPABILITY", "8.9").split("."))
        return types.SimpleNamespace(
            name=os.environ.get("SOFTWARE_CUDA_NAME", "Software CUDA"),
            major=major,
            minor=minor,
            total_memory=library.usage(index)["total"],
            multi_processor_count=128,
            warp_size=32,
            is_integrated=0,
            is_multi_gpu_board=0,
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=1536,
            L2_cache_size=1 << 26,
            gcnArchName="",
            shared_memory_per_block=49152,
            shared_memory_per_block_optin=101376,
            shared_memory_per_multiprocessor=102400,
            uuid=f"00000000-0000-0000-0000-00000000000{index}",
        )

    return properties
