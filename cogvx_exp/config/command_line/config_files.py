"""How Hydra reads YAML files."""

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from cogvx_exp.config.renames import note_renames, renamed_config, renamed_override


class FileConfigSource(file_config_source.FileConfigSource):
    """The files of a folder. A user's own may have names of the last release.

    They are replaced here, and not in what was composed, so that a file or an override that comes later still wins.
    It is named as Hydra's own class: a launcher's process registers that again, under the same name only.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """The content of a file, with new names."""
        result = super().load_config(config_path)
        group = config_path.rpartition("/")[0].replace("/", ".")
        met: set[str] = set()
        if named := result.header["package"]:
            result.header["package"] = named = renamed_override(named, met)
        package = (named or group).replace("_global_", "").replace("_group_", group)
        values = OmegaConf.to_container(result.config, resolve=False)
        renamed = renamed_config(values, package, met)
        if met:
            result.config = OmegaConf.create(renamed)
            note_renames(met)
        return result


def read_files_with_old_names() -> None:
    """Lets Hydra read all files in this way."""
    Plugins.instance()  # registers Hydra's own source, which would come later otherwise
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
