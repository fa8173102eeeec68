"""Breaks a step down by part: time, kernels, synchronisations, floating-point operations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cogvx_exp.profiling.analysis.attribution import attribute
from cogvx_exp.profiling.analysis.flops import flops_of
from cogvx_exp.profiling.analysis.timeline import pieces
from cogvx_exp.profiling.analysis.trace import Event, Trace
from cogvx_exp.profiling.parts import PARTS

SYNCHRONISATIONS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cuCtxSynchronize",
)
"""Runtime calls in which the host waits for the device."""
READS = ("aten::_local_scalar_dense",)
"""Operators that read a value from a tensor; on a GPU, the host waits for it."""
OWN_RANGE = "profiler"
"""The range in which the profiler itself waits for the device."""
PHASES = ("forward", "backward", "recomputed")


@dataclass
class PartWork:
    """The work of one part in a step."""

    seconds: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0
    """Seconds by phase."""
    kernels: float = 0.0
    """Kernels and copies; on a CPU, operators that call no other operators."""
    synchronisations: float = 0.0
    flops: float = 0.0
    recomputed_flops: float = 0.0

    def __add__(self, other: "PartWork") -> "PartWork":
        added = asdict(other)
        return PartWork(**{name: value + added[name] for name, value in asdict(self).items()})


@dataclass(frozen=True)
class Breakdown:
    """The breakdown of the recorded steps; all figures are means per step."""

    first_step: int
    steps: int
    parts: dict[str, PartWork]
    """Parts with any work, in the order of `PARTS`."""
    on_device: bool
    """Whether times and kernels are from a GPU rather than from operators on the host."""
    peak_flops: float | None
    """Peak FLOP/s of the device, if known."""

    @property
    def whole(self) -> PartWork:
        """The whole step."""
        return sum(self.parts.values(), PartWork())

    def mfu(self, work: PartWork) -> float | None:
        """Share of the device's peak; recomputed operations are not counted."""
        if not self.peak_flops or not work.seconds or not work.flops:
            return None
        return (work.flops - work.recomputed_flops) / work.seconds / self.peak_flops

    def rows(self) -> list[dict[str, Any]]:
        """A row per part and one for the step. Times are in milliseconds; values that do not apply are None."""
        whole = self.whole
        return [self._row(name, work, whole.seconds) for name, work in [*self.parts.items(), ("step", whole)]]

    def _row(self, name: str, work: PartWork, seconds: float) -> dict[str, Any]:
        mfu = self.mfu(work)
        return {
            "part": name,
            "ms": round(work.seconds * 1e3, 3),
            "share": round(work.seconds / seconds, 4),
            **{f"{phase}_ms": round(getattr(work, phase) * 1e3, 3) for phase in PHASES},
            "kernels": round(work.kernels, 1),
            "synchronisations": round(work.synchronisations, 1),
            "gflop": round(work.flops / 1e9, 6),
            "gflop_recomputed": round(work.recomputed_flops / 1e9, 6),
            "gflop_per_second": round(work.flops / work.seconds / 1e9, 2) if work.flops and work.seconds else None,
            "mfu": None if mfu is None else round(mfu, 4),
        }


def break_down(
    trace: Trace, parts: Mapping[str, str], *, first_step: int, steps: int, peak_flops: float | None
) -> Breakdown:
    """Sums up a trace.

    Args:
        trace: the recorded steps.
        parts: the part of each range, by its name.
        first_step: number of the first recorded step.
        steps: number of recorded steps.
        peak_flops: peak FLOP/s of the device, if known.
    """
    attribute(trace, parts)
    by_part = {name: PartWork() for name in PARTS}
    for piece in pieces(trace):
        work, seconds = by_part[piece.part], (piece.end - piece.start) / 1e6
        work.seconds += seconds
        if piece.phase:
            setattr(work, piece.phase, getattr(work, piece.phase) + seconds)
    # Leaves, because an operator that calls others would count their work twice.
    for event in trace.device or [event for event in trace.host if event.is_operator and event.is_leaf]:
        by_part[event.part].kernels += 1
    for event in _synchronisations(trace):
        by_part[event.part].synchronisations += 1
    for event in trace.host:
        flops = flops_of(event) if event.is_operator else 0.0
        by_part[event.part].flops += flops
        by_part[event.part].recomputed_flops += flops if event.phase == "recomputed" else 0.0
    mean = {
        name: PartWork(**{key: value / steps for key, value in asdict(work).items()})
        for name, work in by_part.items()
        if any(asdict(work).values())
    }
    return Breakdown(first_step, steps, mean, bool(trace.device), peak_flops)


def _synchronisations(trace: Trace) -> list[Event]:
    """Calls that wait for the device; without a device, reads of values, which would wait on a GPU."""
    if not trace.device:
        return [event for event in trace.host if event.name in READS]
    return [event for event in trace.runtime if event.name in SYNCHRONISATIONS and not _is_own(event)]


def _is_own(event: Event) -> bool:
    return event.parent is not None and event.parent.name == OWN_RANGE
