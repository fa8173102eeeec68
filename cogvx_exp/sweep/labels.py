"""Short labels that distinguish the jobs of a sweep."""

from collections.abc import Sequence
from os.path import commonprefix

LONGEST = 48
"""Maximum length of a value shown in full."""
CUT = "…"


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job (its overrides), the settings not shared by all jobs.

    Long values lose their common folders, then their middle, but remain distinguishable.
    """
    shared = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
    distinct = [[text.partition("=") for text in job if text not in shared] for job in jobs]
    values: dict[str, set[str]] = {}
    for job in distinct:
        for key, _, value in job:
            values.setdefault(key, set()).add(value)
    short = {key: _short(found) for key, found in values.items()}
    return [" ".join(f"{key}{sign}{short[key][value]}" for key, sign, value in job) for job in distinct]


def _short(values: set[str]) -> dict[str, str]:
    """A short form of each value of a setting; different values have different forms."""
    if max(map(len, values)) <= LONGEST:
        return {value: value for value in values}
    letters = commonprefix(sorted(values)) if len(values) > 1 else ""  # noqa: RUF071, cut back to whole folders here
    common = letters[: letters.rfind("/") + 1]
    rest = {value: f"{CUT}/{value[len(common) :]}" if len(common) > 2 else value for value in values}
    for longest in (LONGEST, 2 * LONGEST):
        cut = {value: _without_middle(text, longest) for value, text in rest.items()}
        if len(set(cut.values())) == len(values):
            return cut
    return rest


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = (longest - len(CUT)) // 2
    return f"{text[:half]}{CUT}{text[-half:]}"
