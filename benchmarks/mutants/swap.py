"""Puts a fault into a module that is already imported, and takes it out again.

The code of each function is exchanged, so that all references to it have the faulty one.
"""

import functools
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from tests.mutation import ROOT, Fault


@contextmanager
def swapped(fault: Fault) -> Iterator[None]:
    """The functions of a module are those of the faulty text.

    Raises:
        AssertionError: the text to replace does not occur exactly once, or is not inside a function.
    """
    module = importlib.import_module(".".join(("cogvx_exp", *Path(fault.file).with_suffix("").parts)))
    path = str(ROOT / "cogvx_exp" / fault.file)
    sound, faulty = (
        dict(_functions(vars(_executed(module, path, fault.text(broken=broken))), module.__name__))
        for broken in (False, True)
    )
    own = dict(_functions(vars(module), module.__name__))
    changed = [name for name in own if name in faulty and _content(faulty[name]) != _content(sound[name])]
    assert changed, f"{fault.file}: {fault.before!r} is in no function"
    codes = {name: own[name].__code__ for name in changed}
    try:
        for name in changed:
            own[name].__code__ = faulty[name].__code__
        yield
    finally:
        for name, code in codes.items():
            own[name].__code__ = code


def _executed(module: ModuleType, path: str, text: str) -> ModuleType:
    new = ModuleType(module.__name__)
    vars(new).update({name: value for name, value in vars(module).items() if name.startswith("__")})
    exec(compile(text, path, "exec", dont_inherit=True), vars(new))
    return new


def _content(function: FunctionType) -> tuple[Any, ...]:
    """What a function does, without the numbers of its lines."""

    def of(code: Any) -> tuple[Any, ...]:
        constants = tuple(of(value) if inspect.iscode(value) else (type(value), value) for value in code.co_consts)
        return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants

    return of(function.__code__)


def _functions(names: Any, module: str, prefix: str = "") -> Iterator[tuple[str, FunctionType]]:
    """The module's own functions and methods by name, without their decorators."""
    for name, value in list(names.items()):
        if isinstance(value, type) and value.__module__ == module:
            yield from _functions(vars(value), module, f"{prefix}{name}.")
        for function in _plain(value):
            if function.__module__ == module:
                yield prefix + function.__qualname__, function


def _plain(value: Any) -> list[FunctionType]:
    if isinstance(value, property):
        return [part for part in (value.fget, value.fset) if isinstance(part, FunctionType)]
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, functools.cached_property):
        value = value.func
    value = inspect.unwrap(value) if callable(value) else value
    return [value] if isinstance(value, FunctionType) else []
