"""Records a run's memory by phase."""

import resource
from dataclasses import dataclass, field

import torch

from cogvx_exp.core.units import GIB
from cogvx_exp.distributed.process_group import ProcessGroup

FIGURES = ("before_training", "before_validation", "after_validation", "after_testing")
"""The points reported by CogVideoX Factory: memory of the loaded model, of training, of validation before and between
steps, and of the final validation."""


@dataclass
class MemoryLog:
    """Records memory in GiB at named points; with several processes, the maximum over them."""

    device: torch.device
    processes: ProcessGroup
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each phase: allocated and peak on the GPU, and the peak of the process."""

    def record(self, phase: str) -> None:
        """Records current memory and the peak since the last record. For repeated phases, the maximum is kept."""
        figures = {"process_peak_gib": process_peak()}
        if self.device.type == "cuda":
            figures["allocated_gib"] = torch.cuda.memory_allocated(self.device) / GIB
            figures["reserved_gib"] = torch.cuda.memory_reserved(self.device) / GIB
            figures["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / GIB
            # The peak belongs to the phase that ends here.
            torch.cuda.reset_peak_memory_stats(self.device)
        gathered = self.processes.all_gather(figures)
        figures = {name: max(process[name] for process in gathered) for name in figures}
        before = self.phases.get(phase, {})
        self.phases[phase] = {name: round(max(value, before.get(name, 0.0)), 6) for name, value in figures.items()}

    def figures(self) -> dict[str, float]:
        """The figures of CogVideoX Factory's tables that the run has: peaks in GiB.

        As in those tables and the prediction, training with validation is never below training without.
        """
        which = "peak_gib" if self.device.type == "cuda" else "process_peak_gib"
        peaks = {phase: self.phases[phase][which] for phase in FIGURES if phase in self.phases}
        if "after_validation" in peaks:
            peaks["after_validation"] = max(peaks["after_validation"], peaks["before_validation"])
        return peaks


def memory_in_use(device: torch.device) -> float:
    """GiB: on a GPU the peak since the last record, otherwise the peak of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return process_peak()


def process_peak() -> float:
    """Peak memory of this process, GiB."""
    # The kernel's high-water mark never falls, so without a GPU a phase's peak includes earlier ones.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # KiB on Linux
