"""Checks the names on a command line before anything is composed.

Hydra reports only the first unknown name and accepts any name after a `+`. Here every name is checked against the
groups and settings of `conf/`, so all misspelled names are reported at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from pydantic import BaseModel

from cogvx_exp.config.choices import choices_with
from cogvx_exp.config.command_line.flags import FLAGS
from cogvx_exp.config.command_line.quoting import cut_by_the_shell, hint
from cogvx_exp.config.issues import ConfigError, Issue, did_you_mean
from cogvx_exp.core.text import is_text

OPEN = ("optim.kwargs", "validation.scores", "generate.scores", "tracker.custom", "data.reader", "data.control_kwargs")
"""A `+` may add any name below these: arguments of a class or function, and what is imported by name."""

NULLABLE = ("validation.scores", "generate.scores")
"""Groups of settings of which null removes all."""


def check_names(
    config_name: str,
    overrides: list[str],
    extra: list[str],
    config_dir: Path | None = None,
    schema: type[BaseModel] | None = None,
) -> tuple[list[str], list[Issue]]:
    """Splits `overrides` into those with valid names and the issues of the others.

    Hydra must be initialized (`hydra.initialize_config_dir`).

    Args:
        config_name: the primary config.
        overrides: from the command line.
        extra: overrides for Hydra itself.
        config_dir: the user's own folder of groups (`--config-dir`).
        schema: type of the whole configuration, for hints about syntax.

    Raises:
        ConfigError: overrides cannot be parsed.
    """
    parsed = _parse_all(overrides, schema)
    loader = Groups(GlobalHydra.instance().config_loader(), config_dir)
    groups: list[Override] = []
    settings: list[Override] = []
    hydras: list[Override] = []
    for override in parsed:
        kind = hydras if _is_hydras(override) else groups if _is_group(override, loader) else settings
        kind.append(override)

    issues = [issue for override in groups for issue in _choice_issues(override, loader)]
    good_groups = [override for override in groups if not list(_choice_issues(override, loader))]
    # The files of the user's own folder may change between two commands of a process.
    known_settings = _known_settings.__wrapped__ if extra else _known_settings
    known = known_settings(config_name, (*extra, *_first_choices(good_groups)))
    for override in settings:
        issue = _setting_issue(override, known)
        if issue:
            issues.append(issue)
    for override in hydras:
        if override.key_or_group in ("hydra.run.dir", "hydra.output_subdir", "hydra.job.chdir"):
            issues.append(Issue(_text(override), "is not supported; set run_dir=FOLDER"))
    bad = {issue.setting for issue in issues}
    return [_text(override) for override in parsed if _text(override) not in bad], issues


@dataclass(frozen=True)
class Groups:
    """The groups of conf/ and of the user's config folder."""

    loader: ConfigLoader
    config_dir: Path | None

    def choices(self, group: str) -> list[str]:
        """Names of a group's choices; empty if the group does not exist."""
        names = set(self.loader.get_group_options(group, results_filter=ObjectType.CONFIG))
        if self.config_dir:
            names |= {path.stem for path in (self.config_dir / group).glob("*.yaml")}
        return sorted(name for name in names if not name.startswith("_"))


def _parse_all(overrides: list[str], schema: type[BaseModel] | None) -> list[Override]:
    parsed, issues = [], []
    cut, rest = cut_by_the_shell(overrides, schema)
    for text, missing in cut:
        issues.append(Issue(text, f"was split at a space by the shell; {hint(f'{text} {missing}', schema)}"))
    for text in rest:
        try:
            parsed.append(_parse(text))
        except HydraException as error:
            reason = f"cannot be read ({str(error).splitlines()[0]}); {hint(text, schema)}"
            issues.append(Issue(text, reason if is_text(text) else "is not UTF-8; rename the file, or link to it"))
    if issues:
        raise ConfigError(issues)
    return parsed


def _parse(text: str) -> Override:
    override = OverridesParser.create().parse_override(text)
    if not override.key_or_group:
        raise HydraException("the name is missing")
    return override


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _is_group(override: Override, groups: Groups) -> bool:
    return "." not in override.key_or_group and bool(groups.choices(override.key_or_group))


def _values(override: Override) -> Iterator[Any]:
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        yield from override.sweep_iterator()
    elif override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        value = override.value()
        yield from value if isinstance(value, list) else [value]  # several choices from one group


def _choice_issues(override: Override, groups: Groups) -> Iterator[Issue]:
    group = override.key_or_group
    choices = groups.choices(group)
    for value in _values(override):
        if isinstance(value, dict):
            yield Issue(_text(override), f"{group} can be {', '.join(choices)}; its settings are {group}.NAME=VALUE")
        if value is None or isinstance(value, dict | list):
            continue
        if str(value) not in choices:
            guess = did_you_mean(str(value), choices)
            yield Issue(_text(override), f"{group} can be {', '.join(choices)}; {guess}".rstrip("; "))


def _first_choices(groups: list[Override]) -> Iterator[str]:
    """Overrides of groups without sweeps: of a swept group, whose choices have different settings, the first."""
    for override in groups:
        values = list(_values(override))
        if not override.is_sweep_override() and isinstance(override.value(), list):
            yield _text(override)
        elif values and isinstance(values[0], str | int | float):
            added = "+" if override.is_add() else ""
            yield f"{added}{override.key_or_group}={values[0]}"


@lru_cache
def _known_settings(config_name: str, groups: tuple[str, ...]) -> frozenset[str]:
    """Full names of all settings (the leaves) of the chosen groups."""
    config = compose(config_name, list(groups))
    return frozenset(_paths(OmegaConf.to_container(config, resolve=False)))


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _setting_issue(override: Override, known: frozenset[str]) -> Issue | None:
    key = override.key_or_group
    if any(name.startswith(f"{key}.") for name in known):
        # Hydra merges a group of settings into the present one.
        empty = key in NULLABLE and not override.is_sweep_override() and override.value() == {}
        return Issue(_text(override), f"removes none; write {key}=null") if empty else None
    if key in known:
        return None
    if any(key == name or key.startswith(f"{name}.") for name in OPEN):
        return None if override.is_add() else Issue(_text(override), f"is new; write +{_text(override)}")
    flag = FLAGS.get(key.lstrip("-"))
    if flag:
        return Issue(_text(override), f"no such setting; the flag --{key} is now {flag}")
    elsewhere = choices_with(key)
    if elsewhere:
        return Issue(_text(override), f"only for {' or '.join(elsewhere)}")
    guess = did_you_mean(key, known) or "see --help for all settings"
    return Issue(_text(override), f"no such setting; {guess}")
