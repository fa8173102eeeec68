"""Lets Hydra read YAML files that use old names of settings."""

import os
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from cogvx_exp.config.renames import note_renames, renamed_config, renamed_override


@dataclass(frozen=True)
class _Read:
    """A file's contents, with new names."""

    changed: int
    """Time of the file's last change, in nanoseconds."""
    header: dict[str, Any]
    values: Any
    old_names: set[str]


_read: dict[str, _Read] = {}
"""Files read by this process: a command composes its configuration several times, and parsing takes a third of it."""


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads the config files of a folder once and replaces old names.

    Names are replaced before composition: otherwise an old name in one file could win over the new name in a later file
    or override. The class has the name of Hydra's own: a launcher's process registers that one again, which Hydra
    only accepts under the same name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Loads a file, with new names."""
        path = os.path.join(self.path, self._normalize_file_name(config_path))
        changed = os.stat(path).st_mtime_ns if os.path.exists(path) else -1
        # The key contains the name in the folder: the values' package, and so their old names, depend on it.
        key = f"{self.path}|{config_path}"
        if key not in _read or _read[key].changed != changed:
            _read[key] = self._with_new_names(config_path, changed)
        read = _read[key]
        if read.old_names:
            note_renames(read.old_names)
        # A new config each time: Hydra changes the one that it is given.
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(read.values),
            header=dict(read.header),
        )

    def _with_new_names(self, config_path: str, changed: int) -> _Read:
        result = super().load_config(config_path)
        group = config_path.rpartition("/")[0].replace("/", ".")
        met: set[str] = set()
        if named := result.header["package"]:
            result.header["package"] = named = renamed_override(named, met)
        package = (named or group).replace("_global_", "").replace("_group_", group)
        # Unresolved: references to other files have no value before Hydra composes all of them.
        values = OmegaConf.to_container(result.config, resolve=False)
        return _Read(changed, result.header, renamed_config(values, package, met), met)


def read_files_with_old_names() -> None:
    """Makes Hydra read all files with `FileConfigSource`."""
    Plugins.instance()  # Hydra registers its own source when it loads its plugins
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
