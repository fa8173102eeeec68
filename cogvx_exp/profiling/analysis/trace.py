"""Reads a torch.profiler trace (Chrome's format): nested events of the host, and events of the device."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = "ProfilerStep#"
"""Prefix of the range that torch.profiler opens around a step."""
ON_HOST = ("cpu_op", "user_annotation")
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
RUNTIME = ("cuda_runtime", "cuda_driver")


@dataclass(eq=False)
class Event:
    """An operator, a range, a CUDA runtime call, or a kernel or copy on the device."""

    name: str
    category: str
    start: float
    """Microseconds."""
    end: float
    thread: Any
    about: dict[str, Any]
    """Further arguments recorded in the trace."""
    parent: "Event | None" = None
    """The enclosing event on the same thread; of a kernel or copy, the event that launched it."""
    is_leaf: bool = True
    part: str = ""
    phase: str = ""
    """forward, backward, recomputed or empty."""

    @property
    def is_operator(self) -> bool:
        """Whether it is an operator rather than a range."""
        return self.category == "cpu_op"


@dataclass
class Trace:
    """The recorded steps."""

    start: float
    end: float
    """From the start of the first step to the end of the last one, in microseconds."""
    thread: Any
    """The thread of the training loop."""
    host: list[Event] = field(default_factory=list)
    """Operators and ranges of all threads, sorted by start."""
    device: list[Event] = field(default_factory=list)
    runtime: list[Event] = field(default_factory=list)


def read_trace(path: Path, steps: int) -> Trace:
    """Reads the first `steps` steps of a trace.json.gz."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return parse_trace(json.load(file)["traceEvents"], steps)


def parse_trace(events: Iterable[dict[str, Any]], steps: int) -> Trace:
    """Parses the first `steps` steps from the events of a trace."""
    parsed = sorted(map(_event, _timed(events)), key=_order)
    ranges = [event for event in parsed if event.category == "user_annotation" and event.name.startswith(STEP)][:steps]
    trace = Trace(ranges[0].start, ranges[-1].end, ranges[0].thread)
    for event in parsed:
        if not trace.start <= event.start < trace.end or event.name.startswith(STEP):
            continue
        kind = trace.host if event.category in ON_HOST else trace.device
        (trace.runtime if event.category in RUNTIME else kind).append(event)
    _nest(sorted([*trace.host, *trace.runtime], key=_order))
    return trace


def own_time(events: Iterable[Event]) -> Iterator[tuple[float, float, Event]]:
    """Splits the time of threads into spans: start, end, and the innermost event."""
    reached: dict[Event, float] = {}
    for event in events:
        around = event.parent
        if around:
            if reached[around] < event.start:
                yield reached[around], event.start, around
            reached[around] = max(reached[around], event.end)
        reached[event] = event.start
    yield from ((at, event.end, event) for event, at in reached.items() if at < event.end)


def _timed(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events with a duration, of the relevant categories."""
    known = (*ON_HOST, *ON_DEVICE, *RUNTIME)
    return (event for event in events if event.get("ph") == "X" and event.get("cat") in known)


def _event(event: dict[str, Any]) -> Event:
    start = float(event["ts"])
    thread, about = event.get("tid"), event.get("args", {})
    return Event(event["name"], event["cat"], start, start + float(event.get("dur", 0)), thread, about)


def _order(event: Event) -> tuple[float, float]:
    """Sorts by start, enclosing events before those inside them."""
    return event.start, -event.end


def _nest(events: Iterable[Event]) -> None:
    """Sets the parent of each event. `events`: of all threads, in order."""
    open_ones: dict[Any, list[Event]] = {}
    for event in events:
        stack = open_ones.setdefault(event.thread, [])
        # Events of one thread nest like parentheses, so a stack finds every parent in one pass.
        while stack and stack[-1].end <= event.start:
            stack.pop()
        if stack:
            event.parent = stack[-1]
            event.parent.is_leaf = event.parent.is_leaf and not event.is_operator
        stack.append(event)
