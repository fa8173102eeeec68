"""All mutants, by the setting that they ignore, and the settings without one."""

import typing
from collections.abc import Iterator

from pydantic import BaseModel

from benchmarks.mutants import data, footage, generate, job, machine, model, outputs, task, validation
from benchmarks.mutants.mutant import Mutant
from cogvx_exp.config.schema import GenerateJob, PrepareJob, TrainJob

MUTANTS: dict[str, Mutant] = (
    job.MUTANTS
    | task.MUTANTS
    | validation.MUTANTS
    | generate.MUTANTS
    | data.MUTANTS
    | machine.MUTANTS
    | outputs.MUTANTS
    | model.MUTANTS
    | footage.MUTANTS
)
LABEL = "the name of the choice, for messages and reports; the choice's other settings have mutants"
REASONS = {
    **dict.fromkeys(
        ("model.name", "objective.name", "method.name", "optim.name", "attention.name", "hardware.name"), LABEL
    ),
    "model.training_defaults.": "defaults that other groups refer to (`${model.training_defaults...}`), whose settings have mutants",
    "data.sources.": "read by the code of `data.*`, for each source",
}
"""Why a setting has no mutant; a name that ends in a dot stands for all below it."""


def settings() -> list[str]:
    """Every setting of `train`, `prepare` and `generate`."""
    return list(dict.fromkeys(key for entry in (TrainJob, PrepareJob, GenerateJob) for key in _keys(entry, "", ())))


def reason(key: str) -> str | None:
    """Why a setting has no mutant, if there is a reason."""
    prefixes = (key[: at + 1] for at, letter in enumerate(key) if letter == ".")
    return next((REASONS[name] for name in (key, *prefixes) if name in REASONS), None)


def _keys(schema: type[BaseModel], prefix: str, above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        sections = [section for section in _sections(field.annotation) if section not in above]
        if not sections:
            yield prefix + name
        for section in sections:
            yield from _keys(section, f"{prefix}{name}.", (*above, section))


def _sections(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in _sections(part)]
