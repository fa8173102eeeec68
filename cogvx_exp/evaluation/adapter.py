"""Finds a trained adapter and the base model it belongs to. Does not need torch."""

from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.config.schema import GenerateJob, Model
from cogvx_exp.errors import UserError
from cogvx_exp.tracking.run_folder import LORA_FILE, RunFolder, read_job


@dataclass(frozen=True)
class Adapter:
    """A LoRA file and, if it comes from a run of this project, the model it was trained on."""

    file: Path
    base: Model | None


def find_adapter(path: Path) -> Adapter:
    """Takes a run folder, an export folder or a file.

    Raises:
        UserError: there is no LoRA.
    """
    for file, run in (
        (path, path.parent.parent),
        (path / LORA_FILE, path.parent),
        (RunFolder(path).export / LORA_FILE, path),
    ):
        if file.is_file():
            return Adapter(file, read_job(run).model if RunFolder(run).config.is_file() else None)
    if RunFolder(path).config.is_file():
        raise UserError(f"generate.adapter={path}: this run has no export yet; finish it with resume={path}")
    raise UserError(f"generate.adapter={path}: neither a run folder, nor a folder or file with {LORA_FILE}")


def with_base_model(job: GenerateJob, adapter: Adapter, overrides: list[str]) -> GenerateJob:
    """The job with the model the adapter was trained on, unless the command line chose a model.

    Raises:
        UserError: the chosen model has another architecture than the adapter's.
    """
    if adapter.base is None:
        return job
    if not any(text.startswith(("model=", "model.")) for text in overrides):
        shape = adapter.base.native.model_dump() | adapter.base.sampling.model_dump(exclude={"scheduler"})
        chosen = {text.partition("=")[0].removeprefix("generate.") for text in overrides}
        changes = {name: value for name, value in shape.items() if name not in chosen}
        return job.model_copy(update={"model": adapter.base, "generate": job.generate.model_copy(update=changes)})
    if job.model.transformer != adapter.base.transformer:
        raise UserError(
            f"generate.adapter was trained on model={adapter.base.name} and does not fit model={job.model.name}; "
            "leave model out to use the right one"
        )
    return job
