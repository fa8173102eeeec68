"""A run that goes on from an older checkpoint: what it leaves is kept, apart, and whole whatever is killed."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cogvx_exp.config.rules.notes import warmup_note
from cogvx_exp.config.schema import LrScheduler
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import Clip, Dataset
from cogvx_exp.data.forms.sources import Row
from cogvx_exp.data.identity import dataset_changes, identity_of
from cogvx_exp.media.video import VideoInfo
from cogvx_exp.reporting.runs import find_runs
from cogvx_exp.runs import run_folder
from cogvx_exp.runs.best import Best
from cogvx_exp.runs.branches import set_aside
from cogvx_exp.runs.checkpoint_folder import (
    CheckpointFolder,
    newest_checkpoint,
    prune_checkpoints,
    runs_newest_first,
    write_checkpoint,
)
from cogvx_exp.runs.metrics import Metrics, read_metrics
from cogvx_exp.runs.opening import Opening
from cogvx_exp.runs.run_folder import RunFolder, read_status, write_status
from cogvx_exp.training.checkpoint.resuming import run_steps
from tests.conftest import MakeJob


def checkpoint(folder: RunFolder, step: int, loss: float | None = None) -> None:
    def write(path: Path) -> None:
        (path / "a.bin").write_bytes(bytes([step % 256]) * 10)

    write_checkpoint(folder.checkpoint(step), write, {"step": step, "held_out_loss": loss})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of 12 steps; the best checkpoint is that of step 9."""
    folder = RunFolder(tmp_path / "run")
    for step in (3, 6, 9, 12):
        checkpoint(folder, step, loss=0.1 if step == 9 else 1.0)
        folder.validation(step).mkdir(parents=True)
        (folder.validation(step) / "0.mp4").write_text(str(step))
    for path in (folder.metrics, folder.held_out, folder.scores):
        path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 13)))
    for name in ("config.yaml", "command.txt", "status.json", "loss.png", "wandb_id.txt"):
        (folder.path / name).write_text(f"old {name}")
    (folder.path / "summary.json").write_text('{"steps": 12}')
    folder.export.mkdir()
    (folder.export / "weights").write_text("old")
    return folder


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.glob("step-*"))


def contents(folder: Path) -> set[tuple[str, bytes]]:
    return {(path.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_what_comes_after_an_older_checkpoint_is_set_aside(run: RunFolder) -> None:
    branch = set_aside(run, 6, changed=False)
    assert branch is not None
    assert branch.name.startswith("from-step-000006-")
    there = RunFolder(branch)
    for folder, steps in ((run, [3, 6]), (there, [9, 12])):
        expected = [f"step-{step:06d}" for step in steps]
        assert names(folder.checkpoints) == names(folder.path / "validation") == expected
    assert not run.export.exists()
    assert not (run.path / "summary.json").exists()
    assert not (run.path / "wandb_id.txt").exists(), "a tracker would drop the steps it has"
    assert there.metrics.read_bytes() == run.metrics.read_bytes(), "the run's own lines are cut when it goes on"
    assert there.config.read_text() == "old config.yaml"
    assert set_aside(run, 6, changed=False) is None
    newest = newest_checkpoint(run.path)[0]
    assert newest is not None
    assert newest.step == 6
    assert [found.folder.path for found in find_runs([run.path])] == [run.path]
    kept = newest_checkpoint(branch)[0]
    assert kept is not None
    assert (kept.step, kept.run_dir) == (12, branch)
    assert list(runs_newest_first(run.path.parent)) == [run.path]


def test_a_run_that_goes_on_says_so(run: RunFolder, make_job: MakeJob) -> None:
    job = make_job(f"cache_dir={run.path.parent}")
    opening = Opening(["steps=9"], changed=False, pid=1)
    opening.issues(run, job).write_text("an issue")
    opening.write(run, job, 6)
    (branch,) = (run.path / "branches").iterdir()
    for before, after in ((RunFolder(branch).held_out, run.held_out), (RunFolder(branch).scores, run.scores)):
        assert [line["step"] for line in read_metrics(after)] == list(range(1, 7))
        assert len(read_metrics(before)) == 12
    assert run.overrides() == ["steps=9"]
    assert run.issues.read_text() == "an issue"
    status = json.loads(run.status.read_text())
    assert (status["status"], status["pid"], status["steps"]) == ("running", 1, job.steps)


def test_keep_and_best_count_the_branch_alone(run: RunFolder) -> None:
    set_aside(run, 6, changed=True)
    for step in (7, 8):
        checkpoint(run, step, loss=0.5)
    prune_checkpoints(run.checkpoints, 2, Best("loss"))
    assert names(run.checkpoints) == ["step-000007", "step-000008"]


def test_after_a_crash_nothing_is_set_aside_unless_settings_have_changed(run: RunFolder) -> None:
    for step in (9, 12):
        shutil.rmtree(run.checkpoint(step))
    (run.path / "summary.json").unlink()
    before = contents(run.path)
    assert set_aside(run, 6, changed=False) is None
    assert contents(run.path) == before
    branch = set_aside(run, 6, changed=True)
    assert branch is not None
    assert len(read_metrics(branch / "metrics.jsonl")) == 12


@pytest.mark.parametrize("at", range(20))
def test_a_kill_while_setting_aside_loses_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before, calls, replace = contents(run.path), [0], Path.replace

    def dies(path: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] > at:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        try:
            set_aside(run, 6, changed=False)
        except KeyboardInterrupt:
            assert before <= contents(run.path)
            newest = newest_checkpoint(run.path)[0]
            assert newest is not None
            assert newest.step == (12 if at == 0 else 6), "all of the old run, or the new branch"
    set_aside(run, 6, changed=False)
    assert names(run.checkpoints) == ["step-000003", "step-000006"]
    (branch,) = (run.path / "branches").iterdir()
    assert names(branch / "checkpoints") == ["step-000009", "step-000012"]
    assert before <= contents(run.path)


def test_a_million_steps_are_newer_than_all_below(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (999_999, 1_000_000):
        checkpoint(folder, step)
    newest = newest_checkpoint(tmp_path)[0]
    assert newest is not None
    assert newest.step == 1_000_000


def no_room(*_: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_status_is_true_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    write_status(folder, "running", pid=1)
    assert json.loads(folder.status.read_text())["status"] == "running"
    size = folder.status.stat().st_size
    monkeypatch.setattr(run_folder, "write_text", no_room)
    write_status(folder, "failed", message="ä" * 5000)
    status = read_status(tmp_path)
    assert status["status"] == "failed"
    assert status["message"].startswith("ä" * 100)
    assert folder.status.stat().st_size == size, "no new room is needed"


def test_metrics_wait_for_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Metrics(tmp_path / "metrics.jsonl", 0) as metrics:
        file = metrics._file
        metrics.write(step=1)
        metrics._file = SimpleNamespace(write=no_room)  # type: ignore[assignment]
        metrics.write(step=2)
        metrics.write(step=3)
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
        metrics._file = file
        metrics.write(step=4)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("No space left") == 1


def dataset(folder: Path, *captions: str, held_out: int = 0) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for number, caption in enumerate(captions, 1):
        path = folder / f"{number}.mp4"
        path.write_text("video")
        clips.append(Clip(Row(number, str(path), (caption,)), 0, VideoInfo(9, 32, 48, 8.0, 1.1), Bucket(9, 32, 48)))
    return Dataset(clips[held_out:], clips[:held_out], [1.0])


def test_a_changed_dataset_is_told(tmp_path: Path) -> None:
    before = identity_of(dataset(tmp_path / "a", "one", "two"))
    assert dataset_changes(before, identity_of(dataset(tmp_path / "moved" / "b", "one", "two"))) == []
    assert dataset_changes(None, before) == [], "a checkpoint of before"
    more = identity_of(dataset(tmp_path / "a", "one", "two", "three"))
    assert dataset_changes(before, more) == ["the dataset: 2 clips, now 3"]
    held = identity_of(dataset(tmp_path / "a", "one", "two", "three", held_out=1))
    assert dataset_changes(before, held) == ["the dataset: 0 held out, now 1"]
    for other in (["two", "one"], ["one", "other"]):
        (change,) = dataset_changes(before, identity_of(dataset(tmp_path / "a", *other)))
        assert "2 clips as before, but" in change
    same = dataset(tmp_path / "a", "one", "two")
    (tmp_path / "a" / "2.mp4").write_text("another")
    assert dataset_changes(before, identity_of(same))


@pytest.mark.parametrize(
    ("epochs", "batch_size", "batches_per_step", "steps"),
    [(4, 1, 1, 40), (4, 1, 2, 25), (6, 1, 1, 60), (4, 2, 1, 25), (1, 1, 1, None)],
)
def test_epochs_count_what_was_seen(epochs: int, batch_size: int, batches_per_step: int, steps: int | None) -> None:
    """Ten batches an epoch, of which a checkpoint has seen ten, with batches of one, in ten steps."""
    done = CheckpointFolder(Path("step-000010"), {"step": 10, "batches": 10, "config": {"batch_size": 1}})
    if steps is None:
        done.manifest["step"] = done.manifest["batches"] = 20
    job: Any = SimpleNamespace(epochs=epochs, batch_size=batch_size, steps=0)
    if steps is None:
        with pytest.raises(UserError, match="epochs=1 ends before"):
            run_steps(job, 10, batches_per_step, done)
    else:
        per_epoch = 10 // batch_size
        assert run_steps(job, per_epoch, batches_per_step, done) == steps
        assert run_steps(job, per_epoch, batches_per_step, None) == -(-epochs * per_epoch // batches_per_step)


def test_a_warm_up_that_does_not_end_is_told() -> None:
    note = warmup_note(LrScheduler(name="cosine", warmup_steps=40), 10)
    assert note is not None
    assert "25% of optim.lr" in note
    assert warmup_note(LrScheduler(name="cosine", warmup_steps=9), 10) is None
    assert warmup_note(LrScheduler(name="constant"), 10) is None
