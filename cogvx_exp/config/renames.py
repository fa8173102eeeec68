"""Renamed settings. Old names work for one release: on command lines, in YAML files and in stored runs."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RENAMES = {
    "optim.settings": "optim.kwargs",
    "model.usual": "model.training_defaults",
    "model.weights=shipped": "model.weights=bundled",
    "task.image_dropout": "task.condition_dropout",
}
"""Old to new: a setting, a whole section, or one value of a setting. Only the last part of a name may change, because a
group's file only has the names within its section."""

SWEPT = "hydra.sweeper.params"
"""The section with the overrides of a sweep, written as on the command line."""

_noted: set[str] | None = None
"""Old names already reported by the running command; None: no command is running, and nothing is printed."""


@contextmanager
def noting_renames() -> Iterator[None]:
    """Lets `note_renames` print inside, each old name once."""
    global _noted
    _noted = set()
    try:
        yield
    finally:
        _noted = None


def note_renames(met: set[str]) -> None:
    """Prints the new names of the old ones that were used, to standard error."""
    if _noted is None:
        return
    for old in sorted(met - _noted):
        print(f"Note: {old} is now {RENAMES[old]}; the old name will not work in the next release", file=sys.stderr)
    _noted.update(met)


def renamed_override(text: str, met: set[str] | None = None) -> str:
    """A command-line override with new names; old ones are added to `met`."""
    return _Renaming(met).override(text)


def renamed_config(config: Any, section: str = "", met: set[str] | None = None) -> Any:
    """Nested settings, such as those of a stored run, with new names.

    Args:
        config: the settings; not modified.
        section: the section they belong to; empty for a whole configuration.
        met: old names are added to it.
    """
    return _Renaming(met).config(config, section)


class _Renaming:
    def __init__(self, met: set[str] | None):
        self._met = set() if met is None else met

    def override(self, text: str) -> str:
        key, sign, value = text.partition("=")
        name = key.lstrip("+~")
        value = self._reference(value)
        for old, new in _values_of(name):
            # Not only whole values: a sweep has several, separated by commas.
            if re.search(rf"\b{re.escape(old)}\b", value):
                self._met.add(f"{name}={old}")
                value = re.sub(rf"\b{re.escape(old)}\b", new, value)
        return f"{key.removesuffix(name)}{self._name(name)}{sign}{value}"

    def config(self, config: Any, section: str) -> Any:
        if isinstance(config, list):
            return [self.config(item, section) for item in config]
        if not isinstance(config, dict):
            return self._value(section, config)
        if section == SWEPT:
            texts = ((self.override(f"{name}={value}"), value) for name, value in config.items())
            parts = ((text.partition("="), value) for text, value in texts)
            return {name: value if new == str(value) else new for (name, _, new), value in parts}
        renamed: dict[Any, Any] = {}
        for key, value in config.items():
            name = f"{section}.{key}" if section else str(key)
            is_old, new = name in RENAMES, self._name(name)
            item, new_key = self.config(value, new), new.rpartition(".")[2] if is_old else key
            if new_key in renamed:  # both names are used: the new one wins
                item = _merged(item, renamed[new_key]) if is_old else _merged(renamed[new_key], item)
            renamed[new_key] = item
        return renamed

    def _name(self, name: str) -> str:
        for old, new in RENAMES.items():
            if name == old or name.startswith(f"{old}."):
                self._met.add(old)
                return new + name.removeprefix(old)
        return name

    def _value(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        new = dict(_values_of(name)).get(value)
        if new:
            self._met.add(f"{name}={value}")
        return new or self._reference(value)

    def _reference(self, text: str) -> str:
        """Renames settings in references such as `${NAME}`."""
        return re.sub(r"(?<=\$\{)[\w.]+", lambda match: self._name(match[0]), text)


def _values_of(name: str) -> Iterator[tuple[str, str]]:
    """The renamed values of a setting, as pairs of old and new."""
    for old, new in RENAMES.items():
        if old.startswith(f"{name}="):
            yield old.partition("=")[2], new.partition("=")[2]


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in below.keys() & above.keys()}}
