"""Finds the folder of a pipeline. Does not need torch, so that a missing download is told at once."""

from pathlib import Path

from cogvx_exp.config.schema import Model
from cogvx_exp.errors import UserError

NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt"]


def pretrained_folder(model: Model) -> Path:
    """The local folder of a pretrained pipeline; downloads it if it is not in the Hugging Face cache.

    Raises:
        UserError: it is neither on disk nor can it be fetched.
    """
    assert model.path is not None, "the config check asks for it"
    local = Path(model.path).expanduser()
    if (local / "model_index.json").is_file():
        return local
    if local.exists() or model.path.startswith((".", "/", "~")):
        raise UserError(f"model.path={model.path}: this folder has no model_index.json, so it is no diffusers pipeline")
    return _download(model.path, model.revision)


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=NEEDED))
    except Exception as error:  # the hub client raises errors of several libraries
        reason = _reason(error, LocalEntryNotFoundError)
        raise UserError(
            f"model.path={repo} is not in the Hugging Face cache and could not be fetched ({reason}); set "
            f"model.path=FOLDER to a local copy, or model.weights=random to try the run without pretrained weights"
        ) from None


def _reason(error: Exception, not_found: type[Exception]) -> str:
    if isinstance(error, not_found):
        return "the Hub cannot be reached"
    return (str(error) or type(error).__name__).splitlines()[0][:160]
