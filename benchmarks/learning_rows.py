"""The rows of docs/learning.md, and what each must have exercised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Seen = dict[str, Any]
Check = Callable[[Seen], str]
"""What was seen, in words.

Raises:
    NotExercisedError: the run did not do what the row is about.
"""
NEEDS_GPU = {"paged_adamw": "pages memory of a GPU", "paged_adamw8bit": "pages memory of a GPU"}
"""Optimizers without a row: on a CPU they are adamw and adamw8bit."""


class NotExercisedError(Exception):
    """A run did not do what its row is about."""


@dataclass(frozen=True)
class Row:
    """A run."""

    settings: str | None
    """Of `train`; None: the base model is not trained."""
    check: Check
    software_cuda: bool = False
    """Whether it runs on the software CUDA device (tests/software_cuda): offloading needs a second memory."""

    @property
    def concept(self) -> str:
        return next((part[13:] for part in (self.settings or "").split() if part.startswith("data.concept=")), "sketch")


def _must(is_right: bool, seen: str) -> str:
    if not is_right:
        raise NotExercisedError(seen)
    return seen


def trains(what: str) -> Check:
    """Weights whose names have this part are trained."""
    return lambda seen: _must(what in seen["trained"] and seen["moved"], f"trained: {what}")


def uses(optimizer: str) -> Check:
    """The optimizer is of this class."""
    return lambda seen: _must(optimizer in seen["optimizers"], f"optimizer: {', '.join(seen['optimizers'])}")


def keeps(kind: str) -> Check:
    """All states of weights with 4096 values or more are of this class or dtype."""

    def check(seen: Seen) -> str:
        states = seen["large states"]
        words = ", ".join(f"{count} {name}" for name, count in states.items()) or "none"
        return _must(set(states) == {kind}, f"states of 4096 values or more: {words}")

    return check


def on_host(seen: Seen) -> str:
    """States are in host memory, none of them on the device."""
    found = seen["bytes of large states"]
    words = f"{seen['optimizer']}; states: " + ", ".join(f"{size} bytes on {name}" for name, size in found.items())
    return _must(seen["optimizer"] == "OffloadedOptimizer" and set(found) == {"cpu"}, words)


def has_layers(kind: str) -> Check:
    """Blocks have layers of this class."""
    return lambda seen: _must(seen["layers"].get(kind, 0) > 0, f"{seen['layers'].get(kind, 0)} {kind}")


def calls(name: str) -> Check:
    """A function was called."""
    return lambda seen: _must(seen["calls"].get(name, 0) > 0, f"{seen['calls'].get(name, 0)} calls of {name}")


def runs_blocks(times: int) -> Check:
    """Blocks run so often per pass: 2 with recomputation."""

    def check(seen: Seen) -> str:
        ratio = seen["calls"].get("block", 0) / max(seen["calls"].get("transformer", 0), 1)
        return _must(ratio == times, f"each block runs {ratio:g} times per step")

    return check


def shares(strategy: str) -> Check:
    """Two processes train together."""
    return lambda seen: _must(
        seen["processes"] == 2 and seen["strategy"] == strategy,
        f"{seen['processes']} processes, {seen['strategy']}, {seen['sharded']} sharded weights",
    )


def both(*checks: Check) -> Check:
    """All of them."""
    return lambda seen: "; ".join(check(seen) for check in checks)


def nothing(seen: Seen) -> str:
    return ""


def _dtype(seen: Seen) -> str:
    found = seen["dtype of the base"]
    return _must(set(found) == {"torch.bfloat16"}, f"base: {', '.join(found)}")


def _compiled(seen: Seen) -> str:
    return _must(seen["graphs"] > 0, f"{seen['graphs']} compiled graphs")


def _all_trained(seen: Seen) -> str:
    return _must(seen["share trained"] == 1, f"{seen['share trained']:.0%} of the weights trained")


def _unmoved(seen: Seen) -> str:
    return _must(not seen["moved"], "no weight moved" if not seen["moved"] else "weights moved")


def _images(seen: Seen) -> str:
    return _must(seen["input channels"] == 16, f"{seen['input channels']} input channels")


def _rounded(seen: Seen) -> str:
    found = seen["dtype trained"]
    return _must(set(found) == {"torch.bfloat16"}, f"trained in {', '.join(found)}")


def _optim(name: str, check: Check, more: str = "") -> dict[str, Row]:
    return {f"optim={name}": Row(f"optim={name} {more}".strip(), check)}


def _offloaded(name: str, check: Check, more: str = "") -> dict[str, Row]:
    settings = f"optim={name} device=cuda memory.preflight=false data.pin_memory=false {more}".strip()
    return {f"optim={name}, software CUDA": Row(settings, both(on_host, check), software_cuda=True)}


ROWS = {
    "the quickstart": Row("", both(trains("lora_A"), uses("AdamW"), keeps("float32"))),
    "the base model, not trained": Row(None, nothing),
    "method=lora_ff": Row("method=lora_ff", trains("ff")),
    "method=dora": Row("method=dora", trains("lora_magnitude_vector")),
    "method=loha": Row("method=loha", trains("hada_w1_a")),
    "method=lokr": Row("method=lokr", trains("lokr_w1")),
    "method=sft": Row("method=sft", _all_trained),
    **_optim("adam", uses("Adam")),
    **_optim("adamw8bit", both(uses("AdamW8bit"), keeps("uint8"))),
    **_optim("adam8bit", both(uses("Adam8bit"), keeps("uint8"))),
    **_optim("ao_adamw", both(uses("_AdamW"), keeps("float32"))),
    **_optim("ao_adamw8bit", both(uses("AdamW8bit"), keeps("OptimState8bit"))),
    **_optim("ao_adamw4bit", both(uses("AdamW4bit"), keeps("OptimState4bit"))),
    **_optim("ao_adamw_fp8", both(uses("AdamWFp8"), keeps("OptimStateFp8"))),
    **_offloaded("cpu_offload", keeps("float32")),
    **_offloaded("cpu_offload8bit", keeps("OptimState8bit")),
    **_offloaded("cpu_offload_bf16", _rounded, "model.dtype=bfloat16"),
    **_optim("prodigy", uses("Prodigy")),
    **_optim("came", uses("CAME")),
    **_optim("adafactor", uses("Adafactor")),
    **_optim("muon", uses("Muon")),
    **_optim("schedule_free", uses("ScheduleFreeAdamW")),
    "quant=nf4": Row("quant=nf4", has_layers("Linear4bit")),
    "quant=int8": Row("quant=int8", has_layers("PackedLinear")),
    "quant=fp8": Row("quant=fp8", has_layers("PackedLinear")),
    **{
        f"quant={name} quant.compute=8bit": Row(
            f"quant={name} quant.compute=8bit", both(has_layers("EightBitLinear"), calls("linear_in_8_bits"))
        )
        for name in ("int8", "fp8")
    },
    "attention=int8": Row("attention=int8", calls("int8_attention")),
    "compile=blocks": Row("compile=blocks", _compiled),
    "model.dtype=bfloat16": Row("model.dtype=bfloat16", _dtype),
    "memory.activations=checkpoint": Row("memory.activations=checkpoint", runs_blocks(2)),
    "distributed=ddp, 2 processes": Row("distributed=ddp distributed.processes=2 batch_size=2", shares("DataParallel")),
    "distributed=zero2, 2 processes": Row("distributed=zero2 distributed.processes=2 batch_size=2", shares("DeepSpeed")),
    "distributed=fsdp, 2 processes": Row("distributed=fsdp distributed.processes=2 batch_size=2", shares("FullySharded")),
    "data.concept=cross": Row("data.concept=cross", nothing),
    "data.concept=cross method=lora_ff": Row("data.concept=cross method=lora_ff", trains("ff")),
    "data.concept=diagonally": Row("data.concept=diagonally", nothing),
    "i2v": Row("model=tiny-i2v task=i2v", _images),
    "optim.lr=0 (learns nothing)": Row("optim.lr=0 method=sft", _unmoved),
}  # fmt: skip
