"""Runs that go on: with other settings, from an older checkpoint, on a full disk; and attempts that fail."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from cogvx_exp.core.files import read_json
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.latents import cache
from cogvx_exp.runs.checkpoint_folder import MANIFEST_HASH, write_checkpoint
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import MANIFEST, RunFolder, read_status
from cogvx_exp.training import export
from tests.conftest import extended, needs_compiler
from tests.entry import prepare, train
from tests.old_names import with_old_names

Go = Callable[..., int]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A run of six steps."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train([*settings(run, shared_cache), "steps=6"]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def go(run: RunFolder, shared_cache: Path) -> Go:
    """Starts it again."""
    return lambda *more: train([*settings(run.path, shared_cache), *more])


def settings(run: Path, cache_dir: Path) -> list[str]:
    usual = ["validation=none", "data.workers=0", "checkpoint.every=2", "method.rank=4", "optim.lr=0.001"]
    return [f"run_dir={run}", f"cache_dir={cache_dir}", *usual, "lr_scheduler=cosine", "lr_scheduler.warmup_steps=2"]


def cosine(step: int, steps: int, lr: float, warmup: int = 2) -> float:
    """The rate of a step, from 1."""
    if step <= warmup:
        return lr * (step - 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup)))


def rates(run: RunFolder) -> list[float]:
    lines = read_metrics(run.metrics)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "no jump"
    return [line["lr"] for line in lines]


def weights(run: RunFolder, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint(step) / "trainable.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], weight) for name, weight in other.items())


def test_new_settings_hold_from_the_first_resumed_step(
    run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go("resume=latest", "steps=10", "optim.lr=0.0005") == 0
    out = capsys.readouterr().out
    assert "optim.lr: 0.001 -> 0.0005, from step 7" in out
    assert "steps: 6 -> 10, from step 7" in out
    expected = [cosine(step, 6, 0.001) for step in range(1, 7)] + [cosine(step, 10, 0.0005) for step in range(7, 11)]
    assert rates(run) == pytest.approx(expected)
    assert not (run.path / "branches").exists(), "the same run goes on"


def test_a_rate_of_zero_and_a_new_average(run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that do not move are their own average, if it starts with them."""
    assert go("resume=latest", "steps=8", "optim.lr=0", "ema_decay=0.9") == 0
    assert "the EMA starts from the checkpoint's weights" in capsys.readouterr().out
    assert equal(weights(run, 8), weights(run, 6))
    exported = load_file(run.export / "pytorch_lora_weights.safetensors")
    sums = [sum(float(tensor.abs().sum()) for tensor in found.values()) for found in (exported, weights(run, 6))]
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)


def test_a_run_with_old_names_goes_on(run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint's configuration and its own are of the last release."""
    run.config.write_text(yaml.safe_dump(with_old_names(yaml.safe_load(run.config.read_text()))))
    manifest = read_json(run.checkpoint(6) / MANIFEST)
    about = {key: manifest[key] for key in manifest if key not in (MANIFEST_HASH, "files")}
    files = run.path / "files"
    run.checkpoint(6).rename(files)
    (files / MANIFEST).unlink()
    about["config"] = with_old_names(about["config"])
    write_checkpoint(
        run.checkpoint(6), lambda folder: shutil.copytree(files, folder, dirs_exist_ok=True) and None, about
    )
    assert "settings" in read_json(run.checkpoint(6) / MANIFEST)["config"]["optim"]
    for trained in (run.path, run.checkpoint(6)):
        assert find_adapter(trained).base is not None
    assert go("resume=latest", "steps=8") == 0
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("Changed")] == [
        "Changed since the checkpoint: steps: 6 -> 8, from step 7"
    ]
    assert "Note:" not in out + err
    assert len(rates(run)) == 8
    assert read_json(run.checkpoint(8) / MANIFEST)["config"]["optim"]["kwargs"] == {}


@pytest.mark.parametrize("how", [extended("fsdp"), extended("zero2")])
def test_new_settings_hold_in_every_process(how: str, run: RunFolder, go: Go) -> None:
    needs_compiler(how)
    assert go("resume=latest", "steps=7", "optim.lr=0", f"distributed={how}") == 0
    assert equal(weights(run, 7), weights(run, 6))
    before, now = (load_file(run.checkpoint(step) / "optimizer.safetensors") for step in (6, 7))
    assert any(not torch.equal(before[name], tensor) for name, tensor in now.items()), "a step was made"


def test_the_advice_after_a_loss_that_is_not_finite_helps(
    run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go("resume=latest", "steps=12", "checkpoint.every=12", "optim.lr=1e30") == 2
    assert "Lower optim.lr" in capsys.readouterr().err
    assert read_status(run.path)["status"] == "failed"
    assert go("resume=latest", "steps=12", "optim.lr=1e-5") == 0
    assert rates(run)[6] == pytest.approx(cosine(7, 12, 1e-5))
    assert all(math.isfinite(line["loss"]) for line in read_metrics(run.metrics))
    (branch,) = (run.path / "branches").iterdir()
    assert read_metrics(branch / "metrics.jsonl")[6]["lr"] > 1e28, "what failed can be looked at"


def test_an_older_checkpoint_begins_a_branch(
    run: RunFolder, go: Go, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = weights(run, 6)
    older = f"resume={run.checkpoint(2)}"
    assert go(older, "steps=5", "checkpoint.keep=1", "seed=7") == 0
    out = capsys.readouterr().out
    (branch,) = (run.path / "branches").iterdir()
    assert f"Moved the results after step 2 to {branch}" in out
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000005"]
    assert sorted(path.name for path in (branch / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    assert len(rates(run)) == 5
    assert len(read_metrics(branch / "metrics.jsonl")) == 6
    assert go("resume=latest", "steps=6", "seed=7") == 0
    assert "Resuming from step 5" in capsys.readouterr().out
    assert not equal(weights(run, 6), old), "the new branch goes on, not the old one"
    assert train([*settings(branch, shared_cache), "resume=auto", "steps=7"]) == 0
    assert "Resuming from step 6" in capsys.readouterr().out
    assert equal(weights(RunFolder(branch), 6), old)
    assert len(rates(run)) == 6


def test_another_optimizer_starts_with_a_new_state(run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    change = ("resume=latest", "steps=7", "optim=prodigy")
    assert go(*change) == 2
    assert "optim.target was torch.optim.AdamW, now pytorch_optimizer.Prodigy" in capsys.readouterr().err
    assert go(*change, "resume_changed=true") == 0
    assert "the optimizer starts with a new state" in capsys.readouterr().out
    assert rates(run)[6] == pytest.approx(cosine(7, 7, 0.001))


def test_changed_clips_are_reported_and_epochs_continue(
    run: RunFolder, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go("resume=latest", "epochs=1", "data.clips=10", "lr_scheduler.warmup_steps=50") == 0
    out = capsys.readouterr().out
    assert "the dataset: 8 clips, now 10" in out
    assert "lr_scheduler.warmup_steps=50 is not over when the run ends after steps=10" in out
    assert len(rates(run)) == 10, "six of ten clips have been seen"


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_an_attempt_that_fails_changes_nothing(
    run: RunFolder, go: Go, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_text("no video")
    (tmp_path / "clips" / "a.txt").write_text("a caption")
    attempts = {
        ("data=folder", f"data.root={tmp_path / 'nowhere'}"): "is not a folder",
        ("data=folder", f"data.root={tmp_path / 'clips'}"): "rows cannot be used",
        ("method.rank=3",): "method was",
        ("steps=5",): "which has 6 steps",
        ("memory.budget=0.001",): "memory.budget",
        ("batch_size=9", "data.remainder=drop"): "no bucket has batch_size=9",
        ("method.rank=3", "resume_changed=true"): "trained with another model or method",
        (f"resume={run.checkpoint(4)}", "data.remainder=drop", "batch_size=9"): "no bucket",
        (f"run_dir={tmp_path / 'other'}", f"resume={run.checkpoint(4)}"): "already has a run",
    }
    shutil.copytree(run.path, tmp_path / "other")
    before = tree(run.path) | tree(tmp_path / "other")
    for changed, message in attempts.items():
        assert go("resume=latest", "steps=8", *changed) == 2, changed
        assert message in capsys.readouterr().err
        assert tree(run.path) | tree(tmp_path / "other") == before, changed


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_room(*_: object, **__: object) -> None:
    raise FULL


def test_an_export_that_does_not_fit(
    run: RunFolder, go: Go, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(run.export)
    with monkeypatch.context() as patch:
        patch.setattr(export.CogVideoXPipeline, "save_lora_weights", no_room)
        assert go("resume=latest", "steps=6") == 2
    captured = capsys.readouterr()
    assert "Nothing left to train; exporting step 6" in captured.out
    assert f"{run.export}: No space left on device" in captured.err
    assert f"resume=auto continues from {run.checkpoint(6)}" in captured.err
    assert read_status(run.path)["status"] == "failed"
    assert tree(run.export) == before, "the last valid one"
    assert {path.name for path in run.path.glob(".*")} == set()


def test_a_checkpoint_that_does_not_fit_is_no_reason_not_to_export(
    run: RunFolder, go: Go, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(run.export)
    with monkeypatch.context() as patch:
        patch.setattr("cogvx_exp.training.checkpoint.state.save_file", no_room)
        assert go("resume=latest", "steps=7") == 2
    error = capsys.readouterr().err
    assert "the checkpoint of step 7 could not be written: No space left on device" in error
    assert f"its result is in {run.export / 'pytorch_lora_weights.safetensors'}" in error
    assert tree(run.export) != before
    assert "could not be written" in read_status(run.path)["message"]
    assert go("resume=auto", "steps=7") == 0
    assert read_status(run.path)["status"] == "finished"


def test_a_cache_that_does_not_fit(
    tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shared_cache, tmp_path / "cache", copy_function=os.link, ignore=shutil.ignore_patterns("encoded"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_file", no_room)
        assert prepare([f"cache_dir={tmp_path / 'cache'}"]) == 2
    error = capsys.readouterr().err
    assert f"cogvx_exp.prepare: {tmp_path / 'cache'}/" in error
    assert ": No space left on device; free some space, or set cache_dir" in error
    assert prepare([f"cache_dir={tmp_path / 'cache'}"]) == 0
