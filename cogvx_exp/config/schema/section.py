"""Base class and common types of all sections of the configuration."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A typed part of the configuration. Unknown keys are rejected; values are immutable.

    The docstring under each field is its documentation, printed by `--help`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )


@dataclass(frozen=True)
class Allowed:
    """Annotation of a field with the allowed values in words, where the type does not say it well."""

    words: str


def filled(value: Any) -> Any:
    """The value itself, unless it is an empty text: an unset setting is written null.

    Raises:
        PydanticCustomError: it is an empty text.
    """
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "is empty; perhaps a shell variable in it is not set")
    return value


def local_path(value: Any) -> Any:
    """The path with `~` and `~user` replaced by the home folder; non-text values are returned as they are.

    Raises:
        PydanticCustomError: it is empty, is not UTF-8, or names a user who does not exist.
    """
    if not isinstance(filled(value), str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_utf8", "is not UTF-8; rename the folder, or link to it") from None
    path = os.path.expanduser(value)
    if path.startswith("~") and path == value and not os.path.lexists(path):
        user = value[1:].partition("/")[0]
        words = {"user": user} if user else {"user": "with a home folder"}
        raise PydanticCustomError("no_user", "~ is a home folder, and there is no user {user}", words)
    return path


def local_paths(paths: Any, separator: str) -> Any:
    """`local_path` for a list of paths, or a text of paths with separators."""
    if isinstance(paths, str):
        return separator.join(map(local_path, paths.split(separator)))
    return list(map(local_path, paths)) if isinstance(paths, list) else paths


FilledText = Annotated[str, BeforeValidator(filled)]
"""A text that is not empty."""
LocalPath = Annotated[Path, BeforeValidator(local_path)]
"""A file or folder."""
PathText = Annotated[str, BeforeValidator(local_path)]
"""A file or folder, or another name, such as a repository."""
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Allowed("auto, cpu, cuda or cuda:N")]
"""Device of a job."""


class Imported(Section):
    """A class or function, such as your own."""

    target: FilledText
    """Its import path, such as my_module.my_function."""
    kwargs: dict[str, Any] = {}
    """Its further arguments."""


class Score(Imported):
    """A function that rates a video."""

    enabled: bool | Literal["auto"] = True
    """Whether it is computed. auto: if its package is installed and the video has the input it asks for."""
    better: Literal["higher", "lower"] | None = None
    """Which values are better; null: neither, so no checkpoint can be chosen by it."""
    package: FilledText | None = None
    """Python package it needs, besides those of this project."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$"), Allowed("a name of letters, digits and underscores")]
Named = dict[Name, Imported]
"""Classes or functions by name, written {NAME: {target: IMPORT_PATH, kwargs: {}}}."""
Scores = Annotated[dict[Name, Score], BeforeValidator(lambda scores: {} if scores is None else scores)]
"""Scores by name; null: none."""
SCORE = "score."
"""Prefix of a score's name in a `Goal`."""
Goal = Annotated[str, Field(pattern=r"^(loss|score\.[A-Za-z]\w*)$"), Allowed("loss or score.NAME")]
"""What checkpoints or runs are compared by."""
