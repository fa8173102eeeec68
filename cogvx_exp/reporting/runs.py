"""Reads the files of runs, finished or not."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os.path import commonpath
from pathlib import Path
from typing import Any

from cogvx_exp.config.renames import renamed_override
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_config, read_status, settings_by_name

SCORE = "score_"
"""Prefix of scores in tables and curves."""
DEEPEST = 4
"""Maximum depth of the search for runs."""


@dataclass(frozen=True)
class Video:
    """A validation video."""

    path: Path
    step: int
    prompt: str
    number: int
    """Index within the step: the same number has the same prompt and seed in every step."""


@dataclass(frozen=True)
class Run:
    """One run."""

    label: str
    """The part of its path that distinguishes it from the others."""
    folder: RunFolder

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of status.json."""
        return read_status(self.folder.path) or {"status": "unknown"}

    @property
    def status(self) -> str:
        """running, finished, stopped, failed, lost or unknown."""
        return str(self.about["status"])

    @property
    def message(self) -> str:
        """The message about its end."""
        return str(self.about.get("message", ""))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by full name; empty if it failed before it had a configuration."""
        if not self.folder.config.exists():
            overrides = map(renamed_override, self.about.get("overrides", []))
            return dict(text.lstrip("+").split("=", 1) for text in overrides)
        return settings_by_name(read_config(self.folder.path))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty before the end."""
        return _json(self.folder.path / "summary.json")

    @cached_property
    def profile(self) -> dict[str, Any]:
        """What a step is made of; empty if the run was not profiled."""
        return _json(self.folder.profile / "parts.json")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One line per step."""
        return read_metrics(self.folder.metrics)

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """One line per measurement of the held-out loss."""
        return read_metrics(self.folder.held_out)

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """One line per validation whose videos were scored."""
        return read_metrics(self.folder.scores)

    @property
    def last_scores(self) -> dict[str, float]:
        """The last value of each score, by its name in tables."""
        return {SCORE + name: value for line in self.scores for name, value in line.items() if name != "step"}

    @cached_property
    def videos(self) -> list[Video]:
        """The validation videos, by step."""
        videos = []
        for folder in sorted((self.folder.path / "validation").glob("step-*")):
            for number, path in enumerate(sorted(folder.glob("*.mp4"))):
                prompt = str(_json(path.with_suffix(".json")).get("prompt", path.stem))
                videos.append(Video(path, int(folder.name.partition("-")[2]), prompt, number))
        return videos


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in folders of a run, a sweep, or many runs.

    Raises:
        UserError: a folder does not exist or contains no run.
    """
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder; give folders of runs or of sweeps, such as outputs/multirun/TIME"
            )
        runs = list(_runs_in(folder.resolve(), DEEPEST))
        if not runs:
            raise UserError(
                f"{folder} contains no run; give folders of runs or of sweeps, such as outputs/multirun/TIME"
            )
        paths += [path for path in runs if path.resolve() not in {other.resolve() for other in paths}]
    common = Path(commonpath(paths)) if len(paths) > 1 else paths[0].parent
    return [Run(str(path.relative_to(common)), RunFolder(path)) for path in paths]


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    run = RunFolder(folder)
    if run.command.exists() or run.status.exists():
        yield folder
    elif depth:
        # Hidden folders are unfinished ones (`whole_folder`).
        below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        # By number, so that job 10 comes after job 9.
        for path in sorted(below, key=lambda path: (path.name.isdigit() and int(path.name), path.name)):
            yield from _runs_in(path, depth - 1)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (OSError, ValueError):
        return {}
