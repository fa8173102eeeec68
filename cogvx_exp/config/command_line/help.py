"""`--help`: the groups, and every setting with its value and description."""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cogvx_exp.config.schema import Section
from cogvx_exp.console.progress import console
from cogvx_exp.console.terminal import visible

HEADER = """\
python -m cogvx_exp.{entry} [GROUP=CHOICE ...] [SETTING=VALUE ...]
  -m, --multirun   run every combination of comma-separated values
  --cfg job        print the composed configuration and stop
  --quiet          no progress: only the paths of results, warnings and errors
  --hydra-help     flags of Hydra itself
COGVX_LOG=info (or debug) in the environment writes a log to standard error.
"""


def print_help(entry: str, job: Section) -> None:
    """Prints the groups and all settings of a composed job with their values."""
    console.result(HEADER.format(entry=entry))
    console.result("Groups (GROUP=CHOICE):", style="bold")
    console.result(_groups(type(job)))
    console.result("Settings (SETTING=VALUE), with the values of this command line:", style="bold")
    console.result(Group(*_settings(job)))


def _groups(schema: type[BaseModel]) -> Table:
    loader = GlobalHydra.instance().config_loader()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for group in [*schema.model_fields, "experiment"]:
        choices = loader.get_group_options(group, results_filter=ObjectType.CONFIG)
        names = sorted(name for name in choices if not name.startswith("_"))
        if names:
            table.add_row(Text(group, style="cyan"), ", ".join(names))
    return table


def _settings(job: Section) -> Iterator[RenderableType]:
    for key, value, field in _fields(job, ""):
        yield Text(visible(f"  {key}={_show(value)}"), style="cyan")
        doc = " ".join((field.description or "").split()) + _allowed(field.annotation)
        yield Padding(Text(doc), (0, 0, 0, 6))


def _fields(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any, FieldInfo]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        elif value is not None or field.is_required():  # otherwise it belongs to another choice of the group
            yield f"{prefix}{name}", value, field


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_show(item) for item in value) + "]"
    if isinstance(value, dict) and all(isinstance(item, BaseModel) for item in value.values()):
        return "{" + ",".join(value) + "}"  # each has settings of its own
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def _allowed(annotation: Any) -> str:
    """The allowed values of a Literal field."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else [annotation]
    literals = [str(choice) for option in options for choice in get_args(option) if isinstance(choice, str)]
    return f" [{' | '.join(literals)}]" if len(literals) > 1 else ""
