"""Assigns each moment of the recorded steps to one part: what was running, or what the host was waiting for."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from cogvx_exp.profiling.analysis.attribution import NODE, is_collective
from cogvx_exp.profiling.analysis.trace import Event, Trace, own_time
from cogvx_exp.profiling.parts import EXCHANGE, HOST_PARTS, IDLE

COMPUTES, COPIES, EXCHANGES, HOST_WAITS = range(4)
"""Kinds of activity; if several overlap, the first of these counts."""


@dataclass(frozen=True, order=True)
class Interval:
    """A span of time and the part that was active in it."""

    rank: int
    start: float
    end: float
    part: str
    phase: str


def pieces(trace: Trace) -> Iterator[Interval]:
    """Intervals from the start of the first step to the end of the last one, without gaps or overlaps."""
    busy = _of_device(trace) if trace.device else _of_operators(trace)
    intervals = sorted([*busy, *_of_host(trace)], key=lambda interval: interval.start)
    # Every start and end cuts the time, so between two neighbours the set of activities is constant.
    moments = sorted({trace.start, trace.end, *_moments(intervals, trace)})
    active: list[Interval] = []
    begun = 0
    for start, end in pairwise(moments):
        while begun < len(intervals) and intervals[begun].start <= start:
            heapq.heappush(active, intervals[begun])
            begun += 1
        while active and active[0].end <= start:
            heapq.heappop(active)
        first = active[0] if active else None
        yield Interval(first.rank, start, end, first.part, first.phase) if first else Interval(9, start, end, IDLE, "")


def _moments(intervals: list[Interval], trace: Trace) -> Iterator[float]:
    for interval in intervals:
        yield from (at for at in (interval.start, interval.end) if trace.start < at < trace.end)


def _of_device(trace: Trace) -> Iterator[Interval]:
    for event in trace.device:
        rank = EXCHANGES if is_collective(event) else COMPUTES if event.category == "kernel" else COPIES
        yield Interval(rank, event.start, event.end, event.part, event.phase)


def _of_operators(trace: Trace) -> Iterator[Interval]:
    """On a CPU: operators on the training threads. Time between operators, when only Python runs, is idle."""
    threads = {trace.thread, *(event.thread for event in trace.host if event.name.startswith(NODE))}
    for start, end, event in own_time(event for event in trace.host if event.thread in threads):
        if event.is_operator:
            yield Interval(EXCHANGES if is_collective(event) else COMPUTES, start, end, event.part, event.phase)


def _of_host(trace: Trace) -> Iterator[Interval]:
    for event in trace.host:
        if is_collective(event):
            yield Interval(EXCHANGES, event.start, event.end, EXCHANGE, event.phase)
        elif _keeps_waiting(event, trace):
            yield Interval(HOST_WAITS, event.start, event.end, event.part, "")


def _keeps_waiting(event: Event, trace: Trace) -> bool:
    return not event.is_operator and event.thread == trace.thread and event.part in HOST_PARTS
