"""Tables of runs: differing settings and results."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import atomic_write
from cogvx_exp.reporting.runs import SCORE, Run, find_runs
from cogvx_exp.runs.run_folder import IGNORED_KEYS

if TYPE_CHECKING:
    import pandas


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Names of the settings that are not the same in all runs.

    Settings that merely follow from another are left out: a model's name represents everything that comes with it.
    """
    silent = (*IGNORED_KEYS, "tracker.")
    # A dict keeps the configuration's order, which a set would lose.
    names = dict.fromkeys(name for run in runs for name in run.settings if not name.startswith(silent))
    # A run that failed early has only its overrides; comparing it would make every setting differ.
    complete = [run for run in runs if run.folder.config.exists()] or list(runs)
    differing = [name for name in names if len({repr(run.settings.get(name)) for run in complete}) > 1]
    chosen = [name.removesuffix("name") for name in differing if name.endswith(".name")]
    differing = [name for name in differing if not _follows(name, chosen, complete)]
    given = {text.lstrip("+").partition("=")[0] for run in runs for text in run.folder.overrides()}
    differing.sort(key=lambda name: name not in given)  # others may be derived from these
    columns = {name: [run.settings.get(name) for run in complete] for name in differing}
    return [name for index, name in enumerate(differing) if columns[name] not in list(columns.values())[:index]]


def _follows(name: str, chosen: list[str], runs: Sequence[Run]) -> bool:
    """Whether a setting is determined by its group's choice in these runs."""
    for group in chosen:
        if name.startswith(group) and name != f"{group}name":
            pairs = {(repr(run.settings.get(f"{group}name")), repr(run.settings.get(name))) for run in runs}
            return len(pairs) == len({choice for choice, _ in pairs})
    return False


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run: label, status, differing settings and results. Units are seconds and GiB; None if unknown."""
    differing = differing_settings(runs)
    return [run_row(run, differing) for run in runs]


def run_row(run: Run, differing: list[str]) -> dict[str, Any]:
    """A row of `run_rows` with the given settings."""
    losses = [line["loss"] for line in run.held_out]
    last = run.metrics[-1] if run.metrics else {}
    return {
        "run": run.label,
        "status": run.status,
        **{name: run.settings.get(name) for name in differing},
        "held_out_loss": losses[-1] if losses else None,
        "best_held_out_loss": min(losses, default=None),
        **run.last_scores,
        "loss": run.summary.get("loss_last_tenth", last.get("loss_smoothed", last.get("loss"))),
        "last_step": last.get("step"),
        "seconds": run.summary.get("seconds"),
        "seconds_per_step": run.summary.get("seconds_per_step"),
        "memory_gib": run.summary.get("memory_figures", {}).get("before_validation", last.get("memory_gib")),
        "message": run.message,
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as CSV; columns missing in some rows come last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def runs_frame(*folders: str | Path) -> "pandas.DataFrame":
    """The runs in folders as a pandas DataFrame, one row per run, like the report's table.

    Raises:
        UserError: no run is found, or pandas is not installed.
    """
    return _frame(run_rows(find_runs(map(Path, folders))))


def metrics_frame(*folders: str | Path) -> "pandas.DataFrame":
    """All metrics of the runs in folders as a pandas DataFrame, one row per step, with the held-out loss and the
    scores where they were measured.

    Raises:
        UserError: no run is found, or pandas is not installed.
    """
    rows = []
    for run in find_runs(map(Path, folders)):
        measured = {line["step"]: line["loss"] for line in run.held_out}
        scores = {line["step"]: {SCORE + name: line[name] for name in line if name != "step"} for line in run.scores}
        rows += [
            {"run": run.label, **line, "held_out_loss": measured.get(line["step"]), **scores.get(line["step"], {})}
            for line in run.metrics
        ]
    return _frame(rows)


def _frame(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError:
        raise UserError("this needs pandas: pip install pandas; cogvx_exp.report writes CSV files without it") from None
    return pandas.DataFrame(rows)
