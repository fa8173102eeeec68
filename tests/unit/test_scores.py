"""Scores and trackers of a user's own: imported by name, called with frames or lines, never the end of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogvx_exp.config.imported import imported
from cogvx_exp.config.schema.section import Imported, Score
from cogvx_exp.core.errors import UserError
from cogvx_exp.evaluation.scores.base import build_scores, mean_scores, score_video
from cogvx_exp.evaluation.scores.video import ScoredVideo
from cogvx_exp.launch.early_checks import check_early
from cogvx_exp.reporting.page import report_data, write_report
from cogvx_exp.reporting.runs import find_runs
from cogvx_exp.reporting.tables import metrics_frame, runs_frame
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.trackers import Trackers, custom_trackers

FRAMES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def brightest(frames: np.ndarray, scale: float = 1.0) -> Any:
    return frames.max() * scale


def painted(frames: np.ndarray) -> float:
    frames[:] = 0
    return 0.0


def undefined(frames: np.ndarray) -> float:
    return float("nan")


class Recorder:
    """Writes what it is told into a file of the run's folder, and fails if it should."""

    def __init__(self, folder: Path, config: dict[str, Any], first_step: int, fails: bool = False):
        self._lines, self._file, self._fails = [[config["name"], first_step]], folder / "recorded.json", fails

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        if self._fails:
            raise RuntimeError("out of paper")
        self._lines.append([step, values])

    def video(self, step: int, path: Path, prompt: str) -> None:
        self._lines.append([step, path.name, prompt])

    def finish(self) -> None:
        self._file.write_text(json.dumps(self._lines))


def test_a_score_gets_the_frames_and_its_arguments() -> None:
    scores = build_scores(
        {
            "plain": Score(target=f"{__name__}.brightest"),
            "scaled": Score(target=f"{__name__}.brightest", kwargs={"scale": 2}),
            "numpy": Score(target="numpy.mean"),
        },
        "validation.scores",
    )
    assert score_video(scores, ScoredVideo(FRAMES)) == {"plain": 95.0, "scaled": 190.0, "numpy": 47.5}
    assert mean_scores([{"a": 1.0, "b": 3.0}, {"a": 2.0}]) == {"a": 1.5, "b": 3.0}


def test_a_score_that_fails_is_left_out_and_changes_no_frames(capsys: pytest.CaptureFixture[str]) -> None:
    targets = {name: Score(target=f"{__name__}.{name}") for name in ("painted", "undefined", "brightest")}
    assert score_video(build_scores(targets, "validation.scores"), ScoredVideo(FRAMES)) == {"brightest": 95.0}
    notes = " ".join(capsys.readouterr().out.split())
    assert "the score painted failed: ValueError: assignment destination is read-only" in notes
    assert "the score undefined is nan" in notes


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (
            "my_missing.score",
            {},
            r"validation\.scores\.mine\.target=my_missing\.score cannot be imported: .*PYTHONPATH",
        ),
        (f"{__name__}.FRAMES", {}, "is neither a class nor a function"),
        (f"{__name__}.brightest", {"scael": 1}, r"is called as brightest\(frames, scael=1\), but got an unexpected"),
    ],
)
def test_a_wrong_import_is_an_error_before_anything_long(target: str, kwargs: dict, message: str, make_job) -> None:
    job = make_job("validation=default")
    scores = {"mine": Score(target=target, kwargs=kwargs)}
    job = job.model_copy(update={"validation": job.validation.model_copy(update={"scores": scores})})
    with pytest.raises(UserError, match=message):
        check_early(job)
    with pytest.raises(UserError, match=message):
        imported(scores["mine"], "validation.scores.mine", "frames")


def test_scores_are_in_the_table_and_the_curves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.command.write_text("python -m cogvx_exp.train\n")
    run.metrics.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2)))
    run.scores.write_text('{"step": 0, "motion": 1.5}\n{"step": 2, "motion": 2.5, "sharpness": 9.0}\n')
    runs = find_runs([run.path])
    data = report_data(runs, [], tmp_path / "report")
    assert data["columns"]["score_motion"] == "motion"
    assert data["curves"]["score_motion"] == "score: motion"
    assert data["runs"][0]["curves"]["score_motion"] == [[0, 2], [1.5, 2.5]]
    assert data["runs"][0]["curves"]["score_sharpness"] == [[2], [9.0]]
    assert runs_frame(run.path)["score_motion"].tolist() == [2.5]
    assert metrics_frame(run.path)["score_sharpness"].tolist()[1] == 9.0
    write_report(runs, tmp_path / "report")
    assert "score_motion" in (tmp_path / "report" / "runs.csv").read_text().splitlines()[0]


def test_a_tracker_of_your_own_gets_everything(make_job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    custom = {"mine": Imported(target=f"{__name__}.Recorder")}
    job = make_job("validation=none")
    job = job.model_copy(update={"tracker": job.tracker.model_copy(update={"custom": custom})})
    trackers = Trackers(job, RunFolder(tmp_path), first_step=3)
    trackers.metrics({"step": 4, "loss": 0.5})
    trackers.videos(4, [tmp_path / "a.mp4"], ["a circle"])
    trackers.finish()
    recorded = json.loads((tmp_path / "recorded.json").read_text())
    assert recorded == [[job.name, 3], [4, {"loss": 0.5}], [4, "a.mp4", "a circle"]]
    failing = {"mine": Imported(target=f"{__name__}.Recorder", kwargs={"fails": True})}
    trackers = Trackers(
        job.model_copy(update={"tracker": job.tracker.model_copy(update={"custom": failing})}), RunFolder(tmp_path)
    )
    trackers.metrics({"step": 5})
    trackers.finish()
    assert "continuing without mine: out of paper" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"tracker\.custom\.mine: .*Recorder\(folder, config, first_step, colour=red\)"):
        custom_trackers(
            job.tracker.model_copy(
                update={"custom": {"mine": Imported(target=f"{__name__}.Recorder", kwargs={"colour": "red"})}}
            )
        )
