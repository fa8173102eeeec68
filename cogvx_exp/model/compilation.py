"""Compiles the transformer's blocks with torch.compile."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from cogvx_exp.console.progress import Bar, console
from cogvx_exp.core.errors import UserError

BACKEND = "inductor"

MOST_GRAPHS = 64
"""Limit on graphs per block. Shapes, batch sizes, training and sampling each need their own, and so does the first
block, whose input needs no gradient. torch's default limit is 8."""

SECONDS_WORTH_A_LINE = 5.0


def compile_blocks(transformer: CogVideoXTransformer3DModel, dynamic: bool | None, cache_dir: Path) -> None:
    """Compiles each block's `forward`. Hooks on the block (streaming, FSDP) and parameter names are unaffected.

    All blocks share the compiled code. Call this after everything else that changes a block's computation.

    Args:
        transformer: the model.
        dynamic: see `compile_dynamic`.
        cache_dir: where compiled code is cached for later runs, unless TORCHINDUCTOR_CACHE_DIR is set.

    Raises:
        UserError: an adapter breaks the graph.
    """
    _check_adapters(transformer)
    import torch._dynamo.callback

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((cache_dir / "compiled").absolute()))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    handler = torch._dynamo.callback.callback_handler
    if _reporter.start not in handler.start_callbacks:
        handler.register_start_callback(_reporter.start)
        handler.register_end_callback(_reporter.end)
    _reporter.blocks = len(transformer.transformer_blocks)
    for number, block in enumerate(transformer.transformer_blocks, 1):
        block.register_forward_pre_hook(partial(_reporter.enter, number))
        block.forward = torch.compile(block.forward, backend=BACKEND, fullgraph=True, dynamic=dynamic)


def _check_adapters(transformer: CogVideoXTransformer3DModel) -> None:
    tuned = [layer for layer in transformer.modules() if isinstance(layer, BaseTunerLayer)]
    if any(not isinstance(layer, LoraLayer) or any(layer.use_dora.values()) for layer in tuned):
        raise UserError(
            "compile=blocks only supports LoRA adapters and whole transformers, because peft's DoRA, LoHa and LoKr "
            "layers break the graph; use compile=false"
        )


class _Reporter:
    """Shows what is being compiled. It happens inside a step, and a silent minute looks like a hang."""

    def __init__(self) -> None:
        self.blocks = 0
        """Blocks of the model."""
        self._block = 0
        self._bar: Bar | None = None
        self._started = 0.0

    def enter(self, number: int, *about: Any) -> None:
        """Called before a block runs."""
        self._block = number

    def start(self, about: Any) -> None:
        """Called when compilation starts."""
        backward = about.callback_trigger.name == "LAZY_BACKWARD"
        self._started = time.monotonic()
        self._bar = Bar("Compiling", self.blocks, self._block).__enter__()
        self._bar.show(self._block, f"{'backward' if backward else 'forward'} pass of a block; may take a minute")

    def end(self, about: Any) -> None:
        """Called when it has finished."""
        if self._bar:
            self._bar.__exit__()
            self._bar = None
        seconds = time.monotonic() - self._started
        if seconds > SECONDS_WORTH_A_LINE:
            console.print(f"  compiled in {seconds:.0f} s")


_reporter = _Reporter()
