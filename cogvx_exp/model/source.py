"""Finds the folder of a pretrained pipeline. Does not need torch."""

from importlib.resources import as_file, files
from pathlib import Path

from cogvx_exp.config.schema import Model
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import copy_folder, file_hash, fingerprint, whole_folder
from cogvx_exp.core.hub import fetch
from cogvx_exp.model.pipeline_files import check_pipeline

NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt"]


def bundled_folder(model: Model, cache_dir: Path) -> Path:
    """The pipeline of a model whose weights are part of the package, assembled in the cache.

    The package contains the parts shared by the two tiny models only once.
    """
    with as_file(files("cogvx_exp.tiny_model") / "weights") as weights:
        return put_together(weights, model.name, cache_dir)


def put_together(weights: Path, name: str, cache_dir: Path) -> Path:
    """Assembles weights/shared and weights/name into one pipeline folder in the cache."""
    parts = [weights / "shared", weights / name]
    made_from = {path.name + path.parent.name: file_hash(path) for part in parts for path in part.rglob("*.*")}
    folder = cache_dir / "models" / f"{name}-{fingerprint(made_from)[:12]}"
    if not folder.exists():
        with whole_folder(folder) as tmp:
            for part in parts:
                copy_folder(part, tmp)
    return folder


def pretrained_folder(model: Model) -> Path:
    """The local folder of a pretrained pipeline, downloaded if it is not in the Hugging Face cache.

    Raises:
        UserError: it cannot be found or fetched, is incomplete, or is another model's.
    """
    assert model.path is not None, "required by the config check"
    local = Path(model.path).expanduser()
    if (local / "model_index.json").is_file():
        check_pipeline(local, model, f"model.path={model.path}")
        return local
    if local.exists() or model.path.startswith((".", "/", "~")):
        raise UserError(f"model.path={model.path}: the folder has no model_index.json, so it is no diffusers pipeline")
    try:
        # Without the pattern, repositories that also hold .bin files or other formats are downloaded twice over.
        fetched = fetch(model.path, model.revision, kind="model", setting="model.path", patterns=NEEDED)
    except UserError as error:
        raise UserError(f"{error}, or model.weights=random to try the run without pretrained weights") from None
    check_pipeline(fetched, model, f"model.path={model.path}")
    return fetched
