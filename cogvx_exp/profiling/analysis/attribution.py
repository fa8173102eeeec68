"""Which part of the model each recorded operator belongs to.

Modules and the training loop open named ranges, and an operator belongs to the innermost one. A node of the backward
pass runs in no range of a module: it belongs to the part of the operator that made it in the forward pass, which has
the same sequence number of autograd. A block that is computed again in the backward pass opens its ranges again, inside
of a node.
"""

from collections.abc import Mapping

from cogvx_exp.profiling.analysis.trace import Event, Trace
from cogvx_exp.profiling.parts import BETWEEN_STEPS, EXCHANGE, OPTIMIZER, OTHER

NODE = "autograd::engine::evaluate_function: "
"""How the operator begins in which autograd runs a node."""
COLLECTIVES = ("nccl:", "gloo:", "c10d::", "nccl")
"""How operators and kernels begin that exchange tensors with other processes."""
OPTIMIZER_RANGE = "Optimizer.step#"
"""How torch names the range of an optimizer's step, wherever it is made."""


def attribute(trace: Trace, parts: Mapping[str, str]) -> None:
    """Sets the part and the phase of all events. `parts`: those of the ranges, by their names."""
    made_by: dict[int, str] = {}
    last_node: dict[object, str] = {}
    for event in trace.host:
        around = event.parent
        if event.name.startswith(NODE):
            number = event.about.get("Sequence number", -1)
            # What only adds up a gradient has no number, and runs right after the node that made the gradient.
            event.part = made_by.get(number) or last_node.get(event.thread, OTHER)
            last_node[event.thread] = event.part
        else:
            event.part = _part(event, parts)
        event.phase = _phase(event, parts)
        if around and around.part == BETWEEN_STEPS:
            event.part, event.phase = BETWEEN_STEPS, ""
        if event.is_operator and event.thread == trace.thread and _is_differentiable(event):
            made_by[event.about["Sequence number"]] = event.part  # the last one with a number makes the node
    _attribute_device(trace)


def is_collective(event: Event) -> bool:
    """Whether an operator, a range or a kernel exchanges tensors with other processes."""
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
    # In the backward pass, only what is computed again is itself differentiable.
    again = _is_differentiable(event) if event.is_operator else event.name in parts
    return "recomputed" if inherited == "backward" and again else inherited


def _is_differentiable(event: Event) -> bool:
    return event.about.get("Fwd thread id") == 0 and event.about.get("Sequence number", -1) >= 0


def _attribute_device(trace: Trace) -> None:
    """What the device and CUDA's runtime do belongs to the operator or range that has asked for it."""
    by_id = {event.about["External id"]: event for event in trace.host if "External id" in event.about}
    calls = {event.about.get("correlation"): event for event in trace.runtime}
    for event in (*trace.runtime, *trace.device):  # a call before what it has started
        if event.parent is None:
            call = calls.get(event.about.get("correlation"))
            event.parent = by_id.get(event.about.get("External id")) or (None if call is event else call)
        event.part, event.phase = (event.parent.part, event.parent.phase) if event.parent else (OTHER, "")
        if is_collective(event):
            event.part = EXCHANGE
