"""Quoting of texts on a command line: unambiguous values are accepted, for others the correct syntax is shown."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from pydantic import BaseModel

from cogvx_exp.config.kinds import Kind, kind_of

HOME = re.compile(r"(?<=[=,\[:])(\s*)(~[\w.-]*(?:/[^,\[\]{}'\"]*)?)(?=[,\]}]|$)")
"""A path that begins with `~`, as a value or an item of a list. Hydra does not accept an unquoted `~`."""
SWITCH = re.compile(r"([\w.]+)=((?:true|false)(?:,(?:true|false))*)", re.IGNORECASE)
"""A setting that is turned on, off, or both in a sweep."""
INTERPOLATION = re.compile(r"(\\*)\$\{")


def quoted(text: str) -> str:
    """A text quoted for Hydra's parser, whatever characters it contains."""
    # Backslashes in front of `${` are halved by the parser, so they are doubled.
    plain = INTERPOLATION.sub(lambda match: f"{match[1] * 2}\\${{", text)
    only_double = '"' in text and "'" not in text
    return QuotedString(plain, Quote.single if only_double else Quote.double).with_quotes()


def argument(setting: str, value: str | Sequence[str]) -> str:
    """A setting with a text or a list of texts, ready to paste into a shell."""
    written = quoted(value) if isinstance(value, str) else f"[{','.join(map(quoted, value))}]"
    return shlex.quote(f"{setting}={written}")


def hint(text: str, schema: type[BaseModel] | None) -> str:
    """How to write an override that cannot be parsed, based on its setting's type."""
    setting, _, value = text.partition("=")
    kind = kind_of(schema, setting.lstrip("+")) if schema else None
    if kind is None or not _takes_text(text, schema):
        return "a setting is written key=value; quote a value with spaces or commas: 'key=\"a, b\"'"
    if value.startswith("[") and value.endswith("]") and _takes_list(kind):
        return f"write {argument(setting, [item.strip() for item in value[1:-1].split(',')])}"
    return f"write {argument(setting, value)}"


def hint_for_several(override: Override, schema: type[BaseModel]) -> str:
    """How to write a value that was parsed as several, outside of a sweep."""
    setting, _, value = (override.input_line or "").partition("=")
    kind = kind_of(schema, setting.lstrip("+"))
    ways = ["to run each of them, add -m"]
    if kind is None or _takes_list(kind):
        ways.append("for a list, write " + shlex.quote(f"{setting}=[{value}]"))
    if kind is not None and kind.takes(str, Path):
        ways.append(f"for one text, write {argument(setting, value)}")
    return f"has several values: {'; '.join(ways)}"


def readable(text: str, schema: type[BaseModel]) -> str:
    """The override, rewritten if needed so that Hydra reads the intended value.

    `~` is quoted and expanded later by the setting's type. A text or path that looks like a number stays a text:
    `run_dir=2024_01` does not become 202401. A section that can be enabled is so by its name: `profile=true`.
    """
    switch = SWITCH.fullmatch(text)
    if switch and kind_of(schema, f"{switch[1]}.enabled"):
        return f"{switch[1]}.enabled={switch[2]}"
    override = _parsed(text)
    if override is None:
        written = HOME.sub(lambda match: match[1] + quoted(match[2]), text)
        return written if written != text and _parsed(written) else text
    kind = kind_of(schema, override.key_or_group)
    value = override.value() if not override.is_sweep_override() and not override.is_delete() else None
    if kind is None or not isinstance(value, int | float) or not kind.takes(str, Path):
        return text
    if kind.takes(int, float, bool):
        return text
    # Hydra has read a number where the setting takes text: 2024_01 would become 202401.
    setting, _, given = text.partition("=")
    return f"{setting}={quoted(given.strip())}"


def cut_by_the_shell(words: Sequence[str], schema: type[BaseModel] | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Texts that a shell has split at spaces, each with the words that follow it, and all other words."""
    groups: list[list[str]] = []
    for word in words:
        takes_words = bool(groups) and _takes_text(groups[-1][0], schema)
        if takes_words and "=" not in word and not word.startswith("~"):
            groups[-1].append(word)
        else:
            groups.append([word])
    cut = [(group[0], " ".join(group[1:])) for group in groups if len(group) > 1]
    return cut, [group[0] for group in groups if len(group) == 1]


def _takes_text(override: str, schema: type[BaseModel] | None) -> bool:
    setting, sign, _ = override.partition("=")
    kind = kind_of(schema, setting.lstrip("+")) if schema and sign else None
    return kind is not None and kind.takes(str, Path)


def expanded(path: Path) -> Path:
    """The path of a flag, with `~` expanded."""
    return Path(os.path.expanduser(path))


def _takes_list(kind: Kind) -> bool:
    return any(member.item for member in kind.members())


def _parsed(text: str) -> Override | None:
    try:
        override: Any = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return override
