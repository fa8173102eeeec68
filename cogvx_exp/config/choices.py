"""Reads the files of a group without composing them, for messages only."""

from typing import Any

import yaml

from cogvx_exp.config.paths import conf_dir


def models_for(task: str) -> list[str]:
    """Names of the models that support `task`."""
    default = _read("model", "_base")["tasks"]
    return [name for name, values in _files("model").items() if task in values.get("tasks", default)]


def architectures() -> dict[str, dict[str, Any]]:
    """Arguments of each model's transformer, by the model's name."""
    return {name: _composed(name)["transformer"] for name in _files("model")}


def attention_choices() -> list[dict[str, Any]]:
    """The values of each attention kernel."""
    base = _read("attention", "_base")
    chosen = ({**base, **values} for values in _files("attention").values())
    return [{key: value for key, value in values.items() if key != "defaults"} for values in chosen]


def choices_with(setting: str) -> list[str]:
    """Choices whose own file contains `setting` (e.g. data.dataset_file), as `group=choice`."""
    group, _, name = setting.partition(".")
    return [f"{group}={choice}" for choice, values in _files(group).items() if name and name in values]


def _files(group: str) -> dict[str, dict[str, Any]]:
    files = sorted((conf_dir() / group).glob("[!_]*.yaml"))
    return {file.stem: _read(group, file.stem) for file in files}


def _composed(model: str) -> dict[str, Any]:
    """A model's values including those inherited through the `defaults` of its file, without Hydra."""
    own = _read("model", model)
    values: dict[str, Any] = {}
    for parent in own.pop("defaults", ["_self_"]):
        values = _merged(values, own if parent == "_self_" else _composed(parent))
    return values


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
