"""Finds the folder of a pretrained pipeline. Does not need torch."""

from pathlib import Path

from cogvx_exp.config.schema import Model
from cogvx_exp.errors import UserError
from cogvx_exp.hub import fetch

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
    try:
        return fetch(model.path, model.revision, kind="model", setting="model.path", patterns=NEEDED)
    except UserError as error:
        raise UserError(f"{error}, or model.weights=random to try the run without pretrained weights") from None
