"""Compiles the transformer's blocks with torch.compile."""

import os
import time
from pathlib import Path
from typing import Any

from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.console.progress import console

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
    """
    import torch._dynamo.callback

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((cache_dir / "compiled").absolute()))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    handler = torch._dynamo.callback.callback_handler
    if not any(isinstance(getattr(callback, "__self__", None), _Announcer) for callback in handler.start_callbacks):
        announcer = _Announcer()
        handler.register_start_callback(announcer.start)
        handler.register_end_callback(announcer.end)
    for block in transformer.transformer_blocks:
        block.forward = torch.compile(block.forward, backend=BACKEND, fullgraph=True, dynamic=dynamic)


class _Announcer:
    """Reports compilation. It happens inside a step, and a silent minute looks like a hang."""

    def __init__(self) -> None:
        self._graphs = 0
        self._started = 0.0

    def start(self, about: Any) -> None:
        """Called when compilation starts."""
        if not self._graphs:
            console.print("Compiling the transformer's blocks; the first steps take a minute or more ...")
        self._started = time.monotonic()

    def end(self, about: Any) -> None:
        """Called when it has finished."""
        self._graphs += 1
        seconds = time.monotonic() - self._started
        if seconds > SECONDS_WORTH_A_LINE:
            console.print(f"  compiled part {self._graphs} in {seconds:.0f} s")
