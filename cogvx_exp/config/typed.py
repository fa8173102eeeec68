"""Converts Hydra's composed config to a typed, frozen configuration."""

from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException
from pydantic import ValidationError

from cogvx_exp.config.issues import ConfigError, Issue, did_you_mean
from cogvx_exp.config.kinds import Kind, kind_of, locate, misplaced_bools
from cogvx_exp.config.schema import Section

Job = TypeVar("Job", bound=Section)

OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "finite_number")
OUR_OWN = ("empty", "not_utf8", "no_user")
"""Error types raised by the schema's own types."""


def typed(config: DictConfig, schema: type[Job]) -> Job:
    """Resolves and validates `config`. After this no DictConfig exists.

    Raises:
        ConfigError: values of the wrong type or out of range, unknown keys, broken references.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        if isinstance(error, InterpolationKeyError | InterpolationResolutionError):
            problem += r"; ${NAME} refers to another setting; for the literal text write \${NAME}"
        raise ConfigError([Issue(str(error.full_key), problem)]) from None
    assert isinstance(values, dict)
    # Before pydantic, which would turn true into 1.
    issues = [_bool_issue(setting, schema) for setting in misplaced_bools(schema, dict(values))]
    if issues:
        raise ConfigError(issues)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_issues(error.errors(), schema)) from None


def _issues(errors: list[Any], schema: type[Section]) -> list[Issue]:
    """One issue per setting: pydantic reports one for each alternative of a union."""
    by_setting: dict[str, list[tuple[Any, Kind | None]]] = {}
    for item in errors:
        setting, kind = locate(schema, item["loc"])
        by_setting.setdefault(setting, []).append((item, kind))
    return [_issue(setting, found) for setting, found in by_setting.items()]


def _bool_issue(setting: str, schema: type[Section]) -> Issue:
    kind = kind_of(schema, setting)
    assert kind
    return Issue(setting, f"must be {kind.words()}, not true or false")


def _issue(setting: str, errors: list[tuple[Any, Kind | None]]) -> Issue:
    # Errors of our own types say most; those of a union's other members only say that they do not apply.
    item, kind = next((pair for pair in errors if pair[0]["type"] in OUR_OWN), errors[0])
    if item["type"] == "missing":
        return Issue(setting, "is missing; set it, or remove the override that deletes it")
    if item["type"] == "union_tag_invalid":
        allowed = str(item["ctx"]["expected_tags"]).replace("'", "").replace(", ", " or ")
        return Issue(f"{setting}.name={item['ctx']['tag']}", f"must be {allowed}")
    if item["type"] == "extra_forbidden":
        return Issue(f"{setting}={shown(item['input'])}", "no such setting")
    return Issue(f"{setting}={shown(item['input'])}", _problem(setting, item, kind, alone=len(errors) == 1))


def _problem(setting: str, item: Any, kind: Kind | None, alone: bool) -> str:
    """The allowed values."""
    about = item.get("ctx", {})
    if item["type"] in OUR_OWN:
        return str(item["msg"])
    if item["type"] == "string_too_short":
        return "must not be empty"
    if item["type"] in ("too_short", "too_long"):
        least = "at least" if item["type"] == "too_short" else "at most"
        count = about.get("min_length", about.get("max_length"))
        return f"must have {least} {count} item{'s' if count != 1 else ''}, not {about['actual_length']}"
    if kind is None or (alone and item["type"] in OUT_OF_BOUNDS):
        return str(item["msg"]).replace("Input should be", "must be")
    words = kind.words()
    guess = did_you_mean(str(item["input"]), words.replace(" or ", ", ").split(", ")) if alone else ""
    return f"must be {words}" + (f"; {guess}" if item["type"] == "literal_error" and guess else "")


def shown(value: Any) -> str:
    """A value as written on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(item)}' for key, item in value.items())}}}"
    return str(value)
