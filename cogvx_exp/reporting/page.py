"""The report: a folder with a static page that needs no server and no network."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from cogvx_exp.core.files import copy_folder, file_hash, write_text
from cogvx_exp.reporting.runs import SCORE, Run, Video
from cogvx_exp.reporting.tables import differing_settings, run_row, write_csv
from cogvx_exp.runs.run_folder import RunFolder

POINTS = 400
"""Points per curve; longer curves are averaged over neighbouring points."""
POINTS_OF_ONE = 2000
"""The same for the page of a single run."""
REFRESH = 30
"""Seconds between reloads of the page of a running run."""
CURVES = {
    "loss_smoothed": "training loss, smoothed",
    "loss": "training loss, each step",
    "held_out_loss": "held-out loss",
    "loss_t0_249": "loss at timesteps 0-249",
    "loss_t250_499": "loss at timesteps 250-499",
    "loss_t500_749": "loss at timesteps 500-749",
    "loss_t750_999": "loss at timesteps 750-999",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "step_seconds": "seconds per step",
    "data_seconds": "seconds waiting for data",
    "tokens_per_second": "tokens per second",
    "mfu": "model FLOPs utilization (MFU)",
    "memory_gib": "memory, GiB",
}
"""Available curves, if the runs have them."""
COLUMNS = {
    "held_out_loss": "held-out loss",
    "best_held_out_loss": "best",
    "loss": "loss",
    "last_step": "steps",
    "seconds": "time",
    "seconds_per_step": "s/step",
    "memory_gib": "GiB",
}
"""Columns of the table after the settings."""
BETTER = dict.fromkeys(("held_out_loss", "best_held_out_loss", "loss"), "lower")
"""Columns whose best value is marked, and which values are better."""


def write_report(runs: Sequence[Run], output: Path) -> Path:
    """Writes the page with its data, CSV files and assets; returns the page.

    Videos in the folder around the page stay where they are; others are linked or copied into it.
    """
    output.mkdir(parents=True, exist_ok=True)
    # The package may be inside a zip file.
    with as_file(files("cogvx_exp.reporting") / "assets") as page:
        copy_folder(page, output / "page", leave_out=".j2")
    settings = differing_settings(runs)
    write_csv(output / "runs.csv", [run_row(run, settings) for run in runs])
    data = report_data(runs, settings, output)
    write_csv(output / "curves.csv", _curve_rows(data))
    # Pages opened from disk may not fetch files, but they may load scripts.
    # A caption with </script> would otherwise end the script.
    text = json.dumps(data, ensure_ascii=False, default=str).replace("</", "<\\/")
    write_text(output / "data.js", f"window.REPORT = {text};\n")
    alone = runs[0] if len(runs) == 1 else None
    template = Environment(loader=PackageLoader("cogvx_exp.reporting", "assets"), autoescape=True).get_template(
        "index.html.j2"
    )
    title = runs[0].settings.get("name", runs[0].label) if alone else f"{len(runs)} runs"
    refresh = REFRESH if alone and alone.status == "running" else None  # it rewrites the page
    write_text(output / "index.html", template.render(title=title, refresh=refresh, alone=alone))
    return output / "index.html"


def write_run_page(folder: RunFolder) -> None:
    """Writes the page of one run into its folder. Errors in writing it must not fail the run."""
    with suppress(OSError):
        write_report([Run(folder.path.name, folder)], folder.path / "report")


def report_data(runs: Sequence[Run], settings: list[str], output: Path) -> dict[str, Any]:
    """The contents of the page as JSON-like values; `settings` are those that differ."""
    points = POINTS_OF_ONE if len(runs) == 1 else POINTS
    scores = {name: name.removeprefix(SCORE) for name in sorted({name for run in runs for name in run.last_scores})}
    curves = CURVES | {name: f"score: {label}" for name, label in scores.items()}
    return {
        "made": datetime.now().isoformat(timespec="seconds"),
        "settings": settings,
        "columns": COLUMNS | scores,
        "better": BETTER | {name: better for name in scores if (better := _better(runs, name))},
        "curves": curves,
        "runs": [
            {
                **run_row(run, settings),
                "link": _link(run.folder.path, output),
                "config": _link(run.folder.config, output) if run.folder.config.exists() else None,
                "command": run.folder.command.read_text(encoding="utf-8").strip()
                if run.folder.command.exists()
                else "",
                "details": _details(run),
                "curves": {name: _thin(run, name, points) for name in curves},
                "profile": _profile(run, output),
                "videos": [_video(run, video, output) for video in run.videos],
            }
            for run in runs
        ],
    }


def _better(runs: Sequence[Run], name: str) -> str | None:
    """Which values of a score are better, by the settings of the runs; None if neither."""
    found = (run.settings.get(f"validation.scores.{name.removeprefix(SCORE)}.better") for run in runs)
    return next(filter(None, found), None)


def _details(run: Run) -> dict[str, Any]:
    """Further results of a run."""
    summary = run.summary
    memory = {name.replace("_", " "): f"{gib:.2f} GiB" for name, gib in summary.get("memory_figures", {}).items()}
    environment = run.folder.path / "environment.json"
    device = json.loads(environment.read_text(encoding="utf-8"))["device"] if environment.exists() else None
    return {**({"device": device} if device else {}), **{f"memory {name}": size for name, size in memory.items()}}


def _profile(run: Run, output: Path) -> dict[str, Any] | None:
    """Where the time of a step goes, if the run was profiled: the table, and the files around it."""
    if not run.profile:
        return None
    names = {"picture": "parts.png", "text": "parts.txt", "trace": "trace.json.gz"}
    return {**run.profile, **{name: _link(run.folder.profile / file, output) for name, file in names.items()}}


def _thin(run: Run, name: str, points: int) -> list[list[float]]:
    """Steps and values of a curve, averaged over neighbours if there are too many."""
    lines, key = run.metrics, name
    if name == "held_out_loss":
        lines, key = run.held_out, "loss"
    elif name.startswith(SCORE):
        lines, key = run.scores, name.removeprefix(SCORE)
    pairs = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    size = -(-len(pairs) // points) or 1
    groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    steps = [group[-1][0] for group in groups]
    # Five digits: the page shows no more, and a sweep's data stays small.
    return [steps, [float(f"{sum(value for _, value in group) / len(group):.5g}") for group in groups]]


def _curve_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The plotted curves: one row per run and step."""
    rows = []
    for run in data["runs"]:
        by_step: dict[int, dict[str, Any]] = {}
        for name, (steps, values) in run["curves"].items():
            for step, value in zip(steps, values, strict=True):
                by_step.setdefault(step, {"run": run["run"], "step": step})[name] = value
        rows += [by_step[step] for step in sorted(by_step)]
    return rows


def _video(run: Run, video: Video, output: Path) -> dict[str, Any]:
    condition = run.folder.conditions / video.path.name
    return {
        "step": video.step,
        "number": video.number,
        "prompt": video.prompt,
        "source": _within_reach(run, video.path, output),
        **({"condition": _within_reach(run, condition, output)} if condition.exists() else {}),
    }


def _within_reach(run: Run, path: Path, output: Path) -> str:
    """Link to a video: in the folder around the page, or copied into the page's own folder."""
    if path.resolve().is_relative_to(output.resolve().parent):
        return _link(path, output)
    # Named by its content, so that another video never replaces it.
    there = output / "videos" / f"{file_hash(path)}.mp4"
    if not there.exists():
        there.parent.mkdir(exist_ok=True)
        try:
            # A hard link takes no space, and stays when the run's folder is removed.
            os.link(path, there)
        except OSError:  # hard links do not work across file systems
            shutil.copyfile(path, there)
    return _link(there, output)


def _link(path: Path, output: Path) -> str:
    return Path(os.path.relpath(path.resolve(), output.resolve())).as_posix()
