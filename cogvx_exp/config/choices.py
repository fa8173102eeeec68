"""What the files of a group say, read without composing them: for messages only."""

from typing import Any

import yaml

from cogvx_exp.config.paths import conf_dir


def models_for(task: str) -> list[str]:
    """Names of the models that can do `task`."""
    default = _read("model", "_base")["tasks"]
    return [name for name, values in _files("model").items() if task in values.get("tasks", default)]


def choices_with(setting: str) -> list[str]:
    """Choices whose own file has `setting` (such as data.dataset_file), as `group=choice`."""
    group, _, name = setting.partition(".")
    return [f"{group}={choice}" for choice, values in _files(group).items() if name and name in values]


def _files(group: str) -> dict[str, dict[str, Any]]:
    files = sorted((conf_dir() / group).glob("[!_]*.yaml"))
    return {file.stem: _read(group, file.stem) for file in files}


def _read(group: str, choice: str) -> dict[str, Any]:
    text = (conf_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}
