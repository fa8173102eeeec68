"""Attributes each recorded operator to a part of the model.

Modules and the training loop open named ranges, and an operator belongs to the innermost one. A backward node runs
outside the ranges of modules: it belongs to the part of the forward operator that created it, which has the same
autograd sequence number. A block that is recomputed in the backward pass opens its ranges again, inside a node.
"""

from collections.abc import Mapping

from cogvx_exp.profiling.analysis.trace import Event, Trace
from cogvx_exp.profiling.parts import BETWEEN_STEPS, EXCHANGE, OPTIMIZER, OTHER

NODE = "autograd::engine::evaluate_function: "
"""Prefix of the operator in which autograd runs a node."""
COLLECTIVES = ("nccl:", "gloo:", "c10d::", "nccl")
"""Prefixes of operators and kernels that communicate with other processes."""
OPTIMIZER_RANGE = "Optimizer.step#"
"""Prefix of the range that torch opens around every optimizer step, wherever it is called."""


def attribute(trace: Trace, parts: Mapping[str, str]) -> None:
    """Sets the part and the phase of every event. `parts`: the part of each range, by its name."""
    # Sequence numbers are per thread; only the training thread's forward operators are in here.
    made_by: dict[int, str] = {}
    last_node: dict[object, str] = {}
    for event in trace.host:
        around = event.parent
        if event.name.startswith(NODE):
            number = event.about.get("Sequence number", -1)
            # Nodes that accumulate a gradient have no number; they run right after the node that computed it.
            event.part = made_by.get(number) or last_node.get(event.thread, OTHER)
            last_node[event.thread] = event.part
        else:
            event.part = _part(event, parts)
        event.phase = _phase(event, parts)
        if around and around.part == BETWEEN_STEPS:
            event.part, event.phase = BETWEEN_STEPS, ""
        if event.is_operator and event.thread == trace.thread and _is_differentiable(event):
            made_by[event.about["Sequence number"]] = event.part  # the last operator with a number creates the node
    _attribute_device(trace)


def is_collective(event: Event) -> bool:
    """Whether an operator, a range or a kernel communicates with other processes."""
    return event.name.startswith(COLLECTIVES)


def _part(event: Event, parts: Mapping[str, str]) -> str:
    if is_collective(event):
        return EXCHANGE
    if not event.is_operator:
        if event.name.startswith(OPTIMIZER_RANGE):
            return OPTIMIZER
        if event.name in parts:
            return parts[event.name]
    return event.parent.part if event.parent else OTHER


def _phase(event: Event, parts: Mapping[str, str]) -> str:
    if event.name.startswith(NODE):
        return "backward"
    if event.name == "forward":
        return "forward"
    if event.part == OPTIMIZER:
        return ""
    inherited = event.parent.phase if event.parent else ""
    # In the backward pass, only recomputed operators are themselves differentiable.
    again = _is_differentiable(event) if event.is_operator else event.name in parts
    return "recomputed" if inherited == "backward" and again else inherited


def _is_differentiable(event: Event) -> bool:
    return event.about.get("Fwd thread id") == 0 and event.about.get("Sequence number", -1) >= 0


def _attribute_device(trace: Trace) -> None:
    """Attributes kernels, copies and CUDA runtime calls to the operator or range that launched them."""
    by_id = {event.about["External id"]: event for event in trace.host if "External id" in event.about}
    calls = {event.about.get("correlation"): event for event in trace.runtime}
    for event in (*trace.runtime, *trace.device):  # calls before the kernels that they launch
        if event.parent is None:
            call = calls.get(event.about.get("correlation"))
            event.parent = by_id.get(event.about.get("External id")) or (None if call is event else call)
        event.part, event.phase = (event.parent.part, event.parent.phase) if event.parent else (OTHER, "")
        if is_collective(event):
            event.part = EXCHANGE
