"""The best checkpoint of a run, and the objective of a sweep: by loss or by a score."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_json
from cogvx_exp.launch import start
from cogvx_exp.runs.best import Best, best_by, without_link
from cogvx_exp.runs.checkpoint_folder import open_checkpoint, prune_checkpoints, write_checkpoint
from cogvx_exp.runs.run_folder import RunFolder, write_status
from cogvx_exp.runs.sweep_folder import objective, read_sweep_job
from cogvx_exp.sweep.table import SweepTable, jobs_table
from tests.conftest import MakeJob

LOSSES = {1: 0.5, 2: 0.3, 3: None, 4: 0.4, 5: 0.6}
SCORES = {1: 7.0, 2: 3.0, 4: 7.0, 5: 5.0}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    for step, loss in LOSSES.items():
        about = {"step": step, "held_out_loss": loss}
        write_checkpoint(folder.checkpoint(step), lambda path: (path / "a.bin").write_bytes(b"x"), about)
    lines = [{"step": 0, "copying": 99.0}, *({"step": step, "copying": value} for step, value in SCORES.items())]
    folder.scores.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3, "motion": 1.0}]))
    return folder


@pytest.mark.parametrize(
    ("best", "step"),
    [
        (Best("loss"), 2),
        (Best("score.copying"), 2),
        (Best("score.copying", higher=True), 4),
        (Best("score.motion"), 3),
        (Best("score.speed"), None),
        (None, None),
    ],
)
def test_the_best_is_kept_and_linked(best: Best | None, step: int | None, run: RunFolder) -> None:
    """The newer one of equal values; checkpoints without a value are none."""
    (run.checkpoints / "best").symlink_to("step-000001")
    path = prune_checkpoints(run.checkpoints, 1, best)
    names = {path.name for path in run.checkpoints.glob("step-*")}
    assert names == {"step-000005", *([f"step-{step:06d}"] if step else [])}
    link = run.checkpoints / "best"
    if step is None:
        assert path is None
        assert not link.is_symlink()
        return
    assert path == run.checkpoint(step)
    assert open_checkpoint(link).step == step
    assert without_link(link) == path
    assert without_link(run.checkpoint(5)) == run.checkpoint(5)


def test_all_are_kept_and_the_best_is_linked(run: RunFolder) -> None:
    prune_checkpoints(run.checkpoints, None, Best("loss"))
    assert len(list(run.checkpoints.glob("step-*"))) == 5
    assert os.readlink(run.checkpoints / "best") == "step-000002"


def test_what_is_better_comes_from_the_settings(make_job: MakeJob) -> None:
    job = make_job()

    def by(goal: bool | str) -> Best | None:
        return best_by(job.model_copy(update={"checkpoint": job.checkpoint.model_copy(update={"keep_best": goal})}))

    assert by(True) == by("loss") == Best("loss")
    assert by(False) is None
    assert by("score.flicker") == Best("score.flicker", higher=False)
    assert by("score.likeness") == Best("score.likeness", higher=True)


SUMMARY = {"held_out": {"loss": 0.25}, "loss_last_tenth": 0.5, "scores": {"clip": 31.0}, "seconds": 3.0}


def test_the_objective_of_a_job(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    assert objective(SUMMARY) == 0.25
    assert objective({"loss_last_tenth": 0.5}) == 0.5
    assert objective(SUMMARY, "score.clip") == 31.0
    with pytest.raises(UserError, match=r"sweep\.objective=score\.motion: the run has no such score"):
        objective(SUMMARY, "score.motion")
    result = SimpleNamespace(summary=SUMMARY)
    monkeypatch.setattr("cogvx_exp.training.run.train", lambda *args: result)
    given = start.Start(None, None, None, None)  # type: ignore[arg-type]
    assert start._run_here(make_job(), given) == 0.25
    assert start._run_here(_by(make_job(), "score.clip"), given) == 31.0


def test_a_search_for_the_worst_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    for goal, direction in (("loss", "minimize"), ("score.copying", "minimize"), ("score.likeness", "maximize")):
        start._check_direction(_by(job, goal), direction)
        start._check_direction(_by(job, goal), None)
        wrong = {"minimize": "maximize", "maximize": "minimize"}[direction]
        with pytest.raises(UserError, match=f"sweep.objective={goal}: .*direction must be {direction}"):
            start._check_direction(_by(job, goal), wrong)


def _by(job: TrainJob, goal: str) -> TrainJob:
    return job.model_copy(update={"sweep": job.sweep.model_copy(update={"objective": goal})})


def test_the_table_of_a_sweep_shows_the_score(tmp_path: Path) -> None:
    for number, goal in enumerate(("loss", "score.clip")):
        folder = RunFolder(tmp_path / str(number))
        write_status(folder, "finished")
        write_json(folder.path / "summary.json", {**SUMMARY, "objective": goal})
    jobs = [read_sweep_job(tmp_path / str(number)) for number in range(2)]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(jobs_table(jobs))
    header, *rows = captured.get().splitlines()
    assert "score.clip" in header
    assert ["31" in row.split() for row in rows] == [False, True]
    assert all("0.2500" in row for row in rows)


def test_a_score_of_zero_is_reported_as_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "0")
    write_status(folder, "finished")
    write_json(folder.path / "summary.json", {**SUMMARY, "scores": {"flicker": 0.0}, "objective": "score.flicker"})
    table = SweepTable(tmp_path, [["seed=1"]])
    table.start()
    table.finish()
    assert "Job 0 finished, loss 0.25, score.flicker 0:" in capsys.readouterr().out
