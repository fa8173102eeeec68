"""Stored configurations as they were before settings were renamed."""

from copy import deepcopy
from typing import Any

from cogvx_exp.config.renames import RENAMES


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration with the old names of all settings."""
    config = deepcopy(config)
    for old, new in RENAMES.items():
        (old_name, _, old_value), (new_name, _, new_value) = old.partition("="), new.partition("=")
        *sections, new_key = new_name.split(".")
        place = config
        for section in sections:
            place = place[section]
        value = place.pop(new_key)
        place[old_name.rpartition(".")[2]] = old_value if new_value and value == new_value else value
    return config
