"""A faster start: libraries import only what a command uses, not everything that is installed."""

import gc
import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

OPTIONAL = ("bitsandbytes", "torchao", "scipy", "sklearn")
"""peft, diffusers and transformers import these where they are installed, and scikit-learn imports scipy. Only a
quantized base needs any of them; optimizers import theirs when they are built."""

logger = logging.getLogger(__name__)

_one_command = False


def expect_one_command() -> None:
    """Declares that this process ends after its current command, so no later job can need other libraries."""
    global _one_command
    _one_command = True


def import_libraries(quant: str = "none") -> None:
    """Imports torch, diffusers, transformers and peft, in half the time if this process runs one command only.

    Args:
        quant: quantization of the frozen weights (`quant=NAME`).
    """
    if "diffusers" in sys.modules:
        return
    unused = OPTIONAL if _one_command and quant == "none" else ()
    logger.debug("hidden from the libraries: %s", ", ".join(unused) or "nothing")
    with _no_garbage_collection(), _one_look_at_the_installed_packages(), _hidden(unused):
        import diffusers
        import peft
        import transformers

        # The packages import their modules lazily. These classes trigger the checks for optional packages.
        _ = diffusers.CogVideoXTransformer3DModel, diffusers.AutoencoderKLCogVideoX, peft.LoraConfig
        _ = transformers.T5EncoderModel
        for is_available in (peft.import_utils.is_bnb_available, peft.import_utils.is_torchao_available):
            is_available()  # peft asks when it builds an adapter, and remembers the answer


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Hides packages that are not imported yet, as if they were not installed.

    None in `sys.modules` makes `import` and `importlib.util.find_spec` fail.
    """
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        # Not a change of the path: the packages stay importable for whoever needs them later.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _one_look_at_the_installed_packages() -> Iterator[None]:
    """diffusers and transformers both read the metadata of everything that is installed: a quarter of a second each."""
    original = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = cache(original)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Imports create many permanent objects: collecting in between takes a fifth of the time and frees nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections skip the imported objects
        if enabled:
            gc.enable()
