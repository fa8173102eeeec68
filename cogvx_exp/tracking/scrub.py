"""Removes local paths from published files."""

import re
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import Model

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)$")
"""Folder name of a model in the Hub's cache."""
PUBLIC = ("http://", "https://")
ABSOLUTE = re.compile(r"(/[^/]+/|~[\w.-]*/|file:|\\\\|[A-Za-z]:[\\/]).*", re.DOTALL)
"""Start of absolute paths. A single name after a slash is only a path if it exists: it may be a prompt."""
LOCAL = {"cache_dir": "outputs/cache", "run_dir": None, "resume": None, "method.init_from": None}
"""Settings that are only meaningful on the run's machine, and their replacements."""
GIVEN = ("images", "controls")
"""Settings of `validation` that list files; only public addresses are published."""
LONGEST_NAME = 256
"""Maximum length of a file name."""


def hub_name(model: Model) -> str | None:
    """The Hub name of a model's base; None for a local folder of unknown origin.

    A folder in the Hub's own cache contains the name.
    """
    if model.weights != "pretrained" or not model.path:
        return None
    for part in Path(model.path).expanduser().parts:
        # The folder's name keeps the repository's, with dashes in place of the slash.
        if cached := HUB_CACHE.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    local = Path(model.path).expanduser().exists() or model.path.startswith((".", "~"))
    return model.path if HUB_NAME.fullmatch(model.path) and not local else None


def scrubbed_config(config: dict[str, Any], model: Model) -> dict[str, Any]:
    """A run's configuration for publishing: settings with local paths are null."""
    scrubbed = without_paths(config)
    given = {name: config["validation"][name] for name in GIVEN if name in config["validation"]}
    scrubbed["validation"] |= given
    for setting, value in LOCAL.items():
        *groups, name = setting.split(".")
        section = scrubbed
        for group in groups:
            section = section.get(group) or {}
        if name in section:
            section[name] = value
    scrubbed["model"]["path"] = hub_name(model)
    data = scrubbed["data"]
    for source in [data, *(data.get("sources") or [])]:
        if source["source"] != "hub":
            source["root"] = None
    validation = scrubbed["validation"]
    for name in given:
        if (paths := validation[name]) is not None:
            paths = paths if isinstance(paths, list) else paths.split(validation["separator"])
            validation[name] = [path.strip() for path in paths if path.strip().startswith(PUBLIC)] or None
    if str(validation.get("prompts")).endswith(".txt"):
        validation["prompts"] = None
    return scrubbed


def without_paths(value: Any) -> Any:
    """JSON-like data without absolute paths; list entries that are paths are removed."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value if not (isinstance(item, str) and is_local(item))]
    return None if isinstance(value, str) and is_local(value) else value


def is_local(text: str) -> bool:
    """Whether a text is an absolute path or contains this user's home."""
    if text.startswith(PUBLIC):
        return False
    home = str(Path.home())
    if ABSOLUTE.fullmatch(text) or (len(home) > 1 and home in text):
        return True
    # Longer texts are prompts, and asking the file system for them raises an error.
    return text.startswith("/") and len(text) < LONGEST_NAME and Path(text).exists()
