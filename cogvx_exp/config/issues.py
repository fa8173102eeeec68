"""Errors in a configuration, collected so that users see all of them at once."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cogvx_exp.core.errors import UserError


@dataclass(frozen=True)
class Issue:
    """A setting that has to change."""

    setting: str
    """The given setting, as `key=value`."""
    problem: str
    """What is allowed and what to change."""


class ConfigError(UserError):
    """An invalid configuration; its message has one line per issue."""

    def __init__(self, issues: Sequence[Issue]):
        self.issues = list(issues)
        width = min(max(len(issue.setting) for issue in issues), 40)
        count = "1 setting needs" if len(issues) == 1 else f"{len(issues)} settings need"
        lines = [f"  {issue.setting:<{width}}  {issue.problem}" for issue in issues]
        super().__init__("\n".join([f"{count} a change; nothing was started.", *lines]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion of similar names, or an empty string.

    Settings are found by their full name and by its last part: `lr` finds `optim.lr`.
    """
    known = sorted(known)
    last = word.rsplit(".", 1)[-1]
    endings = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    same_ending = [name for name in known if name.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.85)
    close_endings = [endings[ending] for ending in difflib.get_close_matches(last, endings, n=2, cutoff=0.75)]
    names = same_ending or close or close_endings or difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(names[:3])}?" if names else ""
