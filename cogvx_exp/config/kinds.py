"""Descriptions of settings' types, derived from the schema."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from cogvx_exp.config.schema.section import Allowed

NAMES = {int: "whole number", float: "number", str: "text", Path: "path", Any: "value"}


@dataclass(frozen=True)
class Kind:
    """The type of a value, with its bounds."""

    annotation: Any
    about: tuple[Any, ...] = ()

    def members(self) -> Iterator["Kind"]:
        """The alternatives of a union except null, or the kind itself."""
        origin, arguments = get_origin(self.annotation), get_args(self.annotation)
        if origin is Annotated:
            yield from Kind(arguments[0], (*arguments[1:], *self.about)).members()
        elif origin in (Union, types.UnionType):
            alternatives = [argument for argument in arguments if argument is not type(None)]
            # Bounds around a union apply to none of its members in particular, so they are not put into words.
            about = self.about if len(alternatives) == 1 else ()
            for alternative in alternatives:
                yield from Kind(alternative, about).members()
        else:
            yield self

    @property
    def item(self) -> "Kind | None":
        """The kind of the items, if this is a list."""
        arguments = get_args(self.annotation)
        return Kind(arguments[0]) if get_origin(self.annotation) in (list, tuple) else None

    def words(self) -> str:
        """The allowed values: `a whole number above 0`."""
        words = next((item.words for item in self.about if isinstance(item, Allowed)), None)
        if words:
            return words
        members = list(self.members())
        if members == [self]:
            return self._words_of_one()
        return " or ".join(dict.fromkeys(member.words() for member in members))

    def takes(self, *kinds: type) -> bool:
        """Whether one of the alternatives is one of the given types."""
        return any(member.annotation in kinds for member in self.members())

    def _words_of_one(self) -> str:
        kind, arguments = self.annotation, get_args(self.annotation)
        if kind is bool:
            return "true or false"
        if get_origin(kind) is Literal:
            *others, last = map(str, arguments)
            return f"{', '.join(others)} or {last}" if others else last
        if self.item:
            count = f"{len(arguments)} " if get_origin(kind) is tuple else ""
            if _is_section(self.item):
                return "a list of groups of settings, written [{NAME: VALUE}]"
            items = self.item.words().removeprefix("a ").replace("number", "numbers", 1).replace("text", "texts", 1)
            return f"a list of {count}{items.replace('path', 'paths', 1)}, written [A,B]"
        if kind in NAMES:
            bounds = " and ".join(filter(None, map(_bound, self._bounds())))
            return f"a {NAMES[kind]} {bounds}".rstrip()
        return "a group of settings, written {NAME: VALUE}"

    def _bounds(self) -> Iterator[Any]:
        for item in self.about:
            yield from getattr(item, "metadata", [item])


def _bound(about: Any) -> str:
    if isinstance(about, Gt):
        return f"above {about.gt}"
    if isinstance(about, Ge):
        return f"of {about.ge} or more"
    if isinstance(about, Lt):
        return f"below {about.lt}"
    return f"up to {about.le}" if isinstance(about, Le) else ""


def locate(schema: type[BaseModel], location: Sequence[str | int]) -> tuple[str, Kind | None]:
    """The name and kind of the setting at a location reported by pydantic.

    Pydantic inserts names of union alternatives between field names (`validation.default.seed`); they are skipped.
    """
    name, kind = "", Kind(schema)
    for part in location:
        below = _field(kind, part) if isinstance(part, str) else None
        items = [member.item for member in kind.members() if member.item]
        if below:
            name, kind = f"{name}.{part}" if name else str(part), below
        elif isinstance(part, int) and items:
            name, kind = f"{name}[{part}]", items[0]
        # Below a dict every name is possible: the user chose it.
        elif any(member.takes(dict) or get_origin(member.annotation) is dict for member in kind.members()):
            name, kind = f"{name}.{part}", Kind(Any)
        elif _is_section(kind) and not _is_alternative(kind):
            return f"{name}.{part}" if name else str(part), None  # no such setting
    return name, kind


def kind_of(schema: type[BaseModel], setting: str) -> Kind | None:
    """The kind of a setting by its name, such as `optim.lr`."""
    kind = Kind(schema)
    for part in setting.split("."):
        below = _field(kind, part)
        if below is None:
            return None
        kind = below
    return kind


def misplaced_bools(schema: type[BaseModel], values: dict[Any, Any]) -> Iterator[str]:
    """Names of numeric settings that were given true or false, which pydantic accepts as 1 and 0."""
    for name, value in values.items():
        kind = kind_of(schema, name)
        # bool is a subclass of int in Python, and pydantic's lax mode takes it as a number.
        if kind and isinstance(value, bool) and kind.takes(int, float) and not kind.takes(bool):
            yield name
        elif kind and isinstance(value, dict):
            sections = [member.annotation for member in kind.members() if _is_section(member)]
            yield from (f"{name}.{below}" for section in sections[:1] for below in misplaced_bools(section, value))


def _field(kind: Kind, name: str) -> Kind | None:
    for member in kind.members():
        fields = member.annotation.model_fields if _is_section(member) else {}
        if name in fields:
            return Kind(fields[name].annotation, tuple(fields[name].metadata))
        if get_origin(member.annotation) is dict and _is_section(below := Kind(get_args(member.annotation)[1])):
            return below
    return None


def _is_section(kind: Kind) -> bool:
    classes = (member.annotation for member in kind.members() if isinstance(member.annotation, type))
    return any(issubclass(cls, BaseModel) for cls in classes)


def _is_alternative(kind: Kind) -> bool:
    return len(list(kind.members())) > 1
