"""Classes and functions that settings name by their import path, such as a user's own tracker or score."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object

from cogvx_exp.config.schema.section import Imported
from cogvx_exp.core.errors import UserError


def imported(settings: Imported, setting: str, *arguments: str) -> Callable[..., Any]:
    """The class or function, with its `kwargs`.

    Args:
        settings: its import path and further arguments.
        setting: the setting's name, for messages.
        arguments: names of the arguments that it will be called with, in order.

    Raises:
        UserError: it cannot be imported, or does not accept these arguments.
    """
    function = found(settings, setting)
    check_arguments(function, settings, setting, *arguments)
    return partial(function, **settings.kwargs)


def found(settings: Imported, setting: str) -> Callable[..., Any]:
    """The class or function itself.

    Raises:
        UserError: it cannot be imported.
    """
    path = settings.target
    try:
        target = get_object(path)
    except (HydraException, ImportError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{setting}.target={path} cannot be imported: {reason}; check PYTHONPATH") from None
    if not callable(target):
        raise UserError(f"{setting}.target={path} is neither a class nor a function")
    return target


def check_arguments(
    function: Callable[..., Any], settings: Imported, setting: str, *arguments: str, asked: Sequence[str] = ()
) -> None:
    """Checks that a class or function accepts its `kwargs` and the arguments it will be called with.

    Args:
        function: the class or function.
        settings: its import path and further arguments.
        setting: the setting's name, for messages.
        arguments: names of the arguments that are given in order.
        asked: names of those that are given by name.

    Raises:
        UserError: it does not accept them.
    """
    # Checked here: a wrong argument would otherwise only fail at the first use, hours into a run.
    path, named = settings.target, dict.fromkeys(asked) | settings.kwargs
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError as error:
        given = ", ".join([*arguments, *asked, *(f"{name}={value}" for name, value in settings.kwargs.items())])
        raise UserError(f"{setting}: {path} is called as {path.rpartition('.')[2]}({given}), but {error}") from None
    except ValueError:  # functions in C may have no signature
        pass
