"""Trains, and writes what the run was made of: `python -m benchmarks.learning_probe SEEN.json SETTINGS ...`.

So that a row of docs/learning.md can say what it has exercised (`learning_rows.py`). Workers of several processes are
started through `learning_worker.py`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEEN = "COGVX_LEARNING_SEEN"
"""Variable with the file, for workers."""
LARGE = 4096
"""Values of a weight from which on bitsandbytes and torchao quantize its states."""


def main(arguments: list[str]) -> int:
    seen, *settings = arguments
    os.environ[SEEN] = str(Path(seen).resolve())
    from cogvx_exp.launch.workers import start

    start.WORKER = "benchmarks.learning_worker"
    install()
    from cogvx_exp.train import main as train

    return train(settings)


def install() -> None:
    """Watches the training loop of this process, if it is the one that writes."""
    from cogvx_exp.console.quiet import quiet_libraries

    quiet_libraries()  # before anything imports torch
    from cogvx_exp.core.files import write_json
    from cogvx_exp.model.attention import int8
    from cogvx_exp.model.quantization import products
    from cogvx_exp.training import run

    calls: Counter[str] = Counter()
    for module, name in ((int8, "int8_attention"), (products, "linear_in_8_bits")):
        setattr(module, name, _counted(getattr(module, name), name, calls))
    train = run._train

    def watched(context: Any, stop: Any) -> Any:
        transformer = context.training.transformer
        before = _sums(transformer)
        parts = {"transformer": transformer, "block": transformer.transformer_blocks[0]}
        hooks = [part.register_forward_pre_hook(_counts(name, calls)) for name, part in parts.items()]
        calls.clear()  # of encoding and of videos before the first step
        try:
            done = train(context, stop)
        finally:
            for hook in hooks:
                hook.remove()
        if context.processes.is_main_process:
            write_json(Path(os.environ[SEEN]), _seen(context, calls) | {"moved": before != _sums(transformer)})
        return done

    run._train = watched


def _counted(function: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    def counted(*given: Any, **more: Any) -> Any:
        calls[name] += 1
        return function(*given, **more)

    return counted


def _counts(name: str, calls: Counter[str]) -> Callable[..., None]:
    def count(*given: Any) -> None:
        import torch

        calls[name] += (
            torch.is_grad_enabled()
        )  # not the passes of the held-out loss; before, since recomputation may stop early

    return count


def _sums(transformer: Any) -> dict[str, float]:
    return {name: float(weight.detach().double().abs().sum()) for name, weight in _trained(transformer)}


def _trained(transformer: Any) -> Iterator[tuple[str, Any]]:
    for name, weight in transformer.named_parameters():
        if weight.requires_grad:
            yield name, weight.to_local() if hasattr(weight, "to_local") else weight


def _seen(context: Any, calls: Counter[str]) -> dict[str, Any]:
    import torch

    training = context.training
    transformer, strategy = training.transformer, training.state.strategy
    optimizer = _inner(strategy.optimizer)
    optimizers = list(optimizer.parts) if hasattr(optimizer, "parts") else [optimizer]
    states = [
        (weight, value)
        for part in optimizers
        for weight, state in part.state.items()
        for value in state.values()
        # Of the weight's size: bitsandbytes also keeps scales and code books.
        if isinstance(value, torch.Tensor) and value.numel() == weight.numel() >= LARGE
    ]
    weights = dict(transformer.named_parameters())
    return {
        "optimizer": type(optimizer).__name__,
        "optimizers": sorted({type(part).__name__ for part in optimizers}),
        "strategy": type(strategy).__name__,
        "processes": context.processes.world_size,
        "large states": Counter(_kind(value) for _, value in states),
        "bytes of large states": _bytes(value for _, value in states),
        "trained": sorted({part for name, _ in _trained(transformer) for part in name.split(".")}),
        "share trained": sum(weight.numel() for _, weight in _trained(transformer))
        / max(sum(weight.numel() for weight in weights.values()), 1),
        "dtype of the base": Counter(str(weight.dtype) for weight in weights.values() if not weight.requires_grad),
        "dtype trained": Counter(str(weight.dtype) for _, weight in _trained(transformer)),
        "sharded": sum(hasattr(weight, "to_local") for weight in weights.values()),
        "layers": Counter(type(module).__name__ for module in transformer.transformer_blocks.modules()),
        "input channels": transformer.config.in_channels,
        "graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
        "calls": dict(calls),
    }


def _inner(optimizer: Any) -> Any:
    """The optimizer inside of the wrappers of accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _kind(value: Any) -> str:
    """The class of a quantized state, or its dtype."""
    local = value.to_local() if hasattr(value, "to_local") else value
    return type(local).__name__ if hasattr(local, "__tensor_flatten__") else str(local.dtype).removeprefix("torch.")


def _bytes(values: Iterator[Any]) -> Counter[str]:
    """Bytes by device."""
    found: Counter[str] = Counter()
    for value in values:
        local = value.to_local() if hasattr(value, "to_local") else value
        packed = hasattr(local, "__tensor_flatten__")
        parts = [getattr(local, name) for name in local.__tensor_flatten__()[0]] if packed else [local]
        found[local.device.type] += sum(part.numel() * part.element_size() for part in parts)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
