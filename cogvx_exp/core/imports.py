"""A faster start: libraries import only what a command uses, not everything that is installed."""

import gc
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

OPTIONAL = ("bitsandbytes", "torchao", "scipy", "sklearn")
"""peft, diffusers and transformers import these where they are installed, and scikit-learn imports scipy. Only a
quantized base needs any of them; optimizers import theirs when they are built."""

EAGER = tuple(f"diffusers.models.{name}" for name in ("autoencoders", "transformers", "unets"))
"""Packages that import all their modules where one is used: a hundred models, of which two are needed."""

logger = logging.getLogger(__name__)

_one_command = False


def expect_one_command() -> None:
    """Declares that this process ends after its current command, so no later job can need other libraries."""
    global _one_command
    _one_command = True


def import_libraries(quant: str = "none") -> None:
    """Imports torch, diffusers, transformers and peft; optional packages only if a later command may need them.

    Args:
        quant: quantization of the frozen weights (`quant=NAME`).
    """
    if "diffusers" in sys.modules:
        return
    unused = OPTIONAL if _one_command and quant == "none" else ()
    logger.debug("hidden from the libraries: %s", ", ".join(unused) or "nothing")
    with _no_garbage_collection(), _metadata_on_demand(), _hidden(unused):
        import transformers

        _scan_the_models_of_transformers_once()
        import diffusers

        _import_on_demand(EAGER)
        import peft

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
def _metadata_on_demand() -> Iterator[None]:
    """diffusers reads the metadata of everything that is installed, for names that hardly anybody asks for."""
    original = importlib.metadata.packages_distributions
    distributions = _OnDemand(original)
    importlib.metadata.packages_distributions = lambda: distributions
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


class _OnDemand(Mapping[str, list[str]]):
    """A mapping that is made when it is first used."""

    def __init__(self, make: Callable[[], Mapping[str, list[str]]]) -> None:
        self._content = cache(make)

    def __getitem__(self, key: str) -> list[str]:
        return self._content()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())


def _scan_the_models_of_transformers_once() -> None:
    """transformers reads the sources of all its models twice: its cache has the folder, not the file in it."""
    import transformers.utils.import_utils as library

    scan, models = library.create_import_structure_from_path, Path(library.__file__).parents[1] / "models"
    library.create_import_structure_from_path = lambda path: scan(models if Path(path).parent == models else path)


class _PackageOnDemand(ModuleType):
    """A package that runs its own code when it is asked for something, not when a module of it is imported."""

    def __getattr__(self, name: str) -> Any:
        loader = None if self.__spec__ is None else self.__spec__.loader
        if name.startswith("__") or loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # from now on, an ordinary package
        loader.exec_module(self)
        return getattr(self, name)


def _import_on_demand(packages: Iterable[str]) -> None:
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or name in sys.modules:
            continue  # a version of diffusers that has no such package, or has already imported it
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        module.__class__ = _PackageOnDemand
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)


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
