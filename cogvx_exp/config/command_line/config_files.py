"""Lets Hydra read YAML files that use old names of settings."""

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from cogvx_exp.config.renames import note_renames, renamed_config, renamed_override


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads the config files of a folder and replaces old names.

    Names are replaced before composition: otherwise an old name in one file could win over the new name in a later file
    or override. The class has the name of Hydra's own: a launcher's process registers that one again, which Hydra
    only accepts under the same name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Loads a file, with new names."""
        result = super().load_config(config_path)
        group = config_path.rpartition("/")[0].replace("/", ".")
        met: set[str] = set()
        if named := result.header["package"]:
            result.header["package"] = named = renamed_override(named, met)
        package = (named or group).replace("_global_", "").replace("_group_", group)
        # Unresolved: references to other files have no value before Hydra composes all of them.
        values = OmegaConf.to_container(result.config, resolve=False)
        renamed = renamed_config(values, package, met)
        if met:
            result.config = OmegaConf.create(renamed)
            note_renames(met)
        return result


def read_files_with_old_names() -> None:
    """Makes Hydra read all files with `FileConfigSource`."""
    Plugins.instance()  # Hydra registers its own source when it loads its plugins
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
