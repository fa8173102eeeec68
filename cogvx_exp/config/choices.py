"""Reads the files of a group in conf/ without Hydra."""

from functools import cache
from typing import Any

import yaml

from cogvx_exp.config.paths import conf_dir


def models_for(task: str) -> list[str]:
    """Names of the models that support `task`."""
    return [name for name in names_of("model") if task in composed("model", name)["tasks"]]


def models_with_weights(weights: str) -> list[str]:
    """Names of the models whose `model.weights` is the given one."""
    return [name for name in names_of("model") if composed("model", name)["weights"] == weights]


def architectures() -> dict[str, dict[str, Any]]:
    """Arguments of each model's transformer, by the model's name."""
    return {name: composed("model", name)["transformer"] for name in names_of("model")}


def cards() -> dict[str, dict[str, Any]]:
    """What is known about each card of `hardware=`, by its name."""
    return {name: composed("hardware", name) for name in names_of("hardware") if name != "auto"}


def attention_choices() -> list[dict[str, Any]]:
    """The values of each attention kernel."""
    return [composed("attention", name) for name in names_of("attention")]


def choices_with(setting: str) -> list[str]:
    """Choices whose file, or one that it inherits, contains `setting` (e.g. data.dataset_file), as `group=choice`."""
    group, _, name = setting.partition(".")
    if not group or not name:
        return []
    return [f"{group}={choice}" for choice in names_of(group) if name in composed(group, choice)]


@cache
def composed(group: str, choice: str) -> dict[str, Any]:
    """A choice's values including those inherited through the `defaults` of its file, without Hydra."""
    own = _read(group, choice)
    values: dict[str, Any] = {}
    for parent in own.pop("defaults", ["_self_"]):
        values = _merged(values, own if parent == "_self_" else _inherited(group, parent))
    return values


def _inherited(group: str, parent: str) -> dict[str, Any]:
    """The values of another choice of the group, or of a file outside of it, written /FILE@SECTION."""
    name, _, section = parent.partition("@")
    return {section: _read(".", name[1:])} if section else composed(group, parent)


def names_of(group: str) -> list[str]:
    """Names of the choices of a group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("[!_]*.yaml"))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    deeper = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **deeper}


def _read(group: str, choice: str) -> dict[str, Any]:
    text = (conf_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}
