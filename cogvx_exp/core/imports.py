"""A short start: libraries import what a command uses, not whatever happens to be installed."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONAL = ("bitsandbytes", "torchao", "scipy")
"""peft, diffusers and transformers import these where they are installed. Only a quantized base needs that; optimizers
import theirs when they are built."""

logger = logging.getLogger(__name__)

_one_command = False


def expect_one_command() -> None:
    """Says that this process ends with the command it has begun, so that no later job can need more than this one."""
    global _one_command
    _one_command = True


def import_libraries(quant: str = "none") -> None:
    """Imports torch, diffusers, transformers and peft, in half the time if this process runs one command only.

    Args:
        quant: storage of the frozen weights (`quant=NAME`).
    """
    if "diffusers" in sys.modules:
        return
    unused = OPTIONAL if _one_command and quant == "none" else ()
    logger.debug("hidden from the libraries: %s", ", ".join(unused) or "nothing")
    with _no_garbage_collection(), _hidden(unused):
        import diffusers
        import peft
        import transformers

        # Their packages import their parts on demand. These are the parts that look for what is installed.
        _ = diffusers.CogVideoXTransformer3DModel, diffusers.AutoencoderKLCogVideoX, peft.LoraConfig
        _ = transformers.T5EncoderModel


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Inside, packages that are not imported yet look as if they were not installed.

    That is what None in `sys.modules` means to `import` and `importlib.util.find_spec`.
    """
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Imports make many objects that stay: collecting in between takes a fifth of their time and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
