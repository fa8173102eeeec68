"""The most GPU memory that a process takes, by phase."""

import torch

GIB = 1 << 30


class MemoryUse:
    """Peaks in GiB: `allocated` and `reserved` as torch's allocator counts, `process` with what is not torch's.

    What is not torch's (the CUDA context, memory that libraries take for themselves) is what the driver counts for the
    whole device at the end of a phase, less what torch has reserved then and what was in use before: drivers in
    containers do not know their processes. `pinned` is host memory.

    Args:
        device: the GPU.
        before: GiB that were in use before this process.
    """

    def __init__(self, device: torch.device, before: float):
        self.phases: dict[str, dict[str, float]] = {}
        self._device, self._before = device, before

    def begin(self) -> None:
        """Begins a phase: peaks are counted from now on."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def record(self, name: str) -> dict[str, dict[str, float]]:
        """Ends a phase, and begins the next one. Returns all phases."""
        torch.cuda.synchronize(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.max_memory_reserved(self._device)
        others = total - free - torch.cuda.memory_reserved(self._device) - self._before * GIB
        peaks = {
            "allocated": torch.cuda.max_memory_allocated(self._device),
            "reserved": reserved,
            "process": reserved + max(others, 0),
            "pinned": torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0),
        }
        self.phases[name] = {what: round(value / GIB, 4) for what, value in peaks.items()}
        self.begin()
        return self.phases
