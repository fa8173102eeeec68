"""Decides which clips are kept, from their scores."""

from collections.abc import Mapping
from typing import Any

from cogvx_exp.config.schema import Filter
from cogvx_exp.footage.filter.duplicates import near_duplicates
from cogvx_exp.footage.manifest import Record

NAMES = ("sharpness", "exposure", "motion", "cuts", "text")


def limits_of(name: str, settings: Filter) -> tuple[float | None, float | None]:
    """Minimum and maximum of a score."""
    value = getattr(settings, name)
    if value is None:
        return None, None
    if name == "sharpness":
        return value, None
    if name in ("cuts", "text"):
        return None, value
    return value[0], value[1]


def decide(records: list[Record], scores: Mapping[int, dict[str, Any]], settings: Filter) -> list[Record]:
    """The rows with their scores, and `keep: false` with a `reason` where a score is outside of its limits.

    Rows that somebody else excluded, which have no `reason`, stay excluded.

    Args:
        records: the rows of the manifest.
        scores: results of `score_clip`, and of `text_share` if `text` has a limit, by the index of the row.
        settings: the limits.
    """
    reasons = {index: _reason(result, settings) for index, result in scores.items()}
    if settings.duplicates is not None:
        good = (index for index in sorted(scores) if not reasons[index] and not excluded_by_hand(records[index]))
        hashes = ((index, int(scores[index]["hash"], 16)) for index in good)
        for index, first in near_duplicates(hashes, settings.duplicates).items():
            reasons[index] = f"near-duplicate of row {first + 1}"
    return [
        _decided(record, scores[index], reasons[index]) if index in scores else record
        for index, record in enumerate(records)
    ]


def excluded_by_hand(record: Record) -> bool:
    """Whether somebody else than the filter excluded a row."""
    return record.get("keep") is False and not record.get("reason")


def _decided(record: Record, result: dict[str, Any], reason: str) -> Record:
    shown = {name: result[name] for name in NAMES if name in result}
    if excluded_by_hand(record):
        return record | {"scores": shown}
    rest = {name: value for name, value in record.items() if name not in ("keep", "reason", "scores")}
    decision: Record = {"keep": False, "reason": reason} if reason else {}
    return rest | decision | {"scores": shown}


def _reason(result: dict[str, Any], settings: Filter) -> str:
    """Why a clip is excluded; empty if it is not."""
    for name in NAMES:
        least, most = limits_of(name, settings)
        if least is not None and result[name] < least:
            return f"{name} {result[name]:g} is below {least:g}"
        if most is not None and result[name] > most:
            return f"{name} {result[name]:g} is above {most:g}"
    return ""
