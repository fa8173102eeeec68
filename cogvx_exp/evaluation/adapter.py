"""Finds a trained adapter and its base model. Does not need torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from cogvx_exp.config.schema import Data, Generate, GenerateJob, Model, Task
from cogvx_exp.config.schema.section import Section
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapters.weights_file import check_weights
from cogvx_exp.model.pipeline_files import check_part
from cogvx_exp.runs.best import without_link
from cogvx_exp.runs.checkpoint_folder import open_checkpoint
from cogvx_exp.runs.run_folder import (
    ABOUT,
    CHECKPOINT_FILE,
    LORA_FILE,
    MANIFEST,
    PEFT_FILE,
    TRANSFORMER_FOLDER,
    RunFolder,
    is_whole,
    read_config,
)


@dataclass(frozen=True)
class Adapter:
    """Trained weights and, if they come from a run of this project, their base model."""

    file: Path
    """A LoRA file, a peft adapter's file, or the folder of a full transformer."""
    base: Model | None
    reshape: str | None = None
    """The run's data.reshape; None: unknown."""
    task: Task | None = None
    """Its task; None: unknown."""
    data: Data | None = None
    """The run's data; None: unknown."""


def find_adapter(path: Path, setting: str = "generate.adapter") -> Adapter:
    """Accepts a run, export, checkpoint or transformer folder, or a file; `setting` is for messages.

    Raises:
        UserError: there are no trained weights, or the file is damaged.
    """
    # Everything by reading headers: a wrong path must not cost the time of loading a model first.
    file, config = _locate(path, setting)
    # A folder is a full transformer, a file an adapter or a checkpoint's weights.
    if file.is_dir():
        check_part(file, setting)
    else:
        check_weights(file, f"{setting}={path}")
    task, data = _part(Task, config, "task") or _task_in(file), _part(Data, config, "data")
    try:
        base = Model.model_validate(config["model"])
        return Adapter(file, base, config["data"]["reshape"], task, data)
    except (KeyError, TypeError, ValueError):  # no run configuration, or one of another version
        return Adapter(file, None, task=task, data=data)


def _part(kind: type[Section], config: dict[str, Any], name: str) -> Any:
    """A section of a run's configuration; None if there is none, or one of another version."""
    try:
        return kind.model_validate(config[name])
    except (KeyError, TypeError, ValueError):
        return None


def _task_in(file: Path) -> Task | None:
    """The task stored in an adapter's file, if there is one."""
    if file.is_dir():
        return None
    with safe_open(file, framework="np") as opened:
        about = json.loads((opened.metadata() or {}).get(ABOUT, "{}"))
    try:
        return Task.model_validate(about["task"])
    except (KeyError, TypeError, ValueError):
        return None


def _locate(path: Path, setting: str) -> tuple[Path, dict[str, Any]]:
    """The trained weights, and the configuration of their run if known."""
    names = (LORA_FILE, PEFT_FILE, TRANSFORMER_FOLDER)
    for run, folder in ((path, RunFolder(path).export), (path.parent, path)):
        for file in (folder / name for name in names):
            if file.exists():
                return file, _config(run)
    checkpoint = without_link(path.parent if path.name == CHECKPOINT_FILE else path)
    if (checkpoint / CHECKPOINT_FILE).is_file() and (checkpoint / MANIFEST).is_file():
        return checkpoint / CHECKPOINT_FILE, open_checkpoint(checkpoint).manifest.get("config", {})
    if path.is_file() or (path / "config.json").is_file():
        return path, _config(path.parent.parent)
    if RunFolder(path).config.is_file():
        raise UserError(
            f"{setting}={path}: this run has no export yet; finish it with resume={path}, or use one of its "
            f"checkpoints ({path / 'checkpoints'}/step-N)"
        )
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if len(files) == 1:
        return files[0], {}
    if files:
        raise UserError(f"{setting}={path} has {len(files)} files; choose one: {', '.join(map(str, files[:3]))}")
    if not path.exists():
        raise UserError(f"{setting}={path} does not exist; give a run folder or an adapter file")
    raise UserError(f"{setting}={path}: is neither a run folder nor a folder with {' or '.join(names)}")


def _config(run: Path) -> dict[str, Any]:
    """A run's configuration; empty if the folder is not a run folder."""
    try:
        config = read_config(run)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def find_adapters(generate: Generate) -> list[Adapter]:
    """All adapters of a generate job.

    Raises:
        UserError: an adapter is missing, or they were trained on different models.
    """
    paths = generate.adapter if isinstance(generate.adapter, list) else [generate.adapter] if generate.adapter else []
    adapters = [find_adapter(path) for path in paths]
    if len(adapters) > 1 and any(is_whole(adapter.file) for adapter in adapters):
        raise UserError("generate.adapter: a full transformer cannot be combined with other adapters")
    if generate.weights is not None and len(generate.weights) != len(adapters):
        raise UserError(f"generate.weights has {len(generate.weights)} values for {len(adapters)} adapters")
    bases = {adapter.base.name: adapter.base for adapter in adapters if adapter.base}
    if len({base.transformer for base in bases.values()}) > 1:
        raise UserError(f"generate.adapter: they were trained on different models: {', '.join(bases)}")
    return adapters


def with_base_model(job: GenerateJob, adapters: list[Adapter], overrides: list[str]) -> GenerateJob:
    """The job with the adapters' base model, unless the command line chooses a model.

    Raises:
        UserError: the chosen model's architecture differs from the adapters' base model.
    """
    base = next((adapter.base for adapter in adapters if adapter.base), None)
    chosen = {text.partition("=")[0].removeprefix("generate.") for text in overrides}
    trained = next((adapter.reshape for adapter in adapters if adapter.reshape), None)
    if trained and "reshape" not in chosen:
        # A random crop has no place in a video that is to be compared with others.
        reshape = "center" if trained == "random" else trained
        job = job.model_copy(update={"generate": job.generate.model_copy(update={"reshape": reshape})})
    if base is None:
        return job
    if not any(text.startswith(("model=", "model.")) for text in overrides):
        shape = base.native.model_dump() | base.sampling.model_dump(exclude={"scheduler"})
        changes = {name: value for name, value in shape.items() if name not in chosen}
        return job.model_copy(update={"model": base, "generate": job.generate.model_copy(update=changes)})
    if job.model.transformer != base.transformer:
        raise UserError(
            f"generate.adapter was trained on model={base.name} and does not fit model={job.model.name}; "
            "omit model to use the right one"
        )
    return job
