"""Full disks, killed readers, damaged checkpoints: what is lost, and what is said."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cogvx_exp.runs.checkpoint_folder import newest_checkpoint, open_checkpoint
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_status
from tests.entry import train as main
from tests.entry import with_twin

SETTINGS = ["method=sft", "lr_scheduler=constant", "validation=none", "data.workers=0", "checkpoint.every=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A run of four steps with two checkpoints."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main([*SETTINGS, "steps=4", f"run_dir={run}", f"cache_dir={shared_cache}"]) == 0
    return run


def test_a_full_disk_leaves_the_last_good_checkpoint(trained: Path, tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained, run.path)
    settings = [*SETTINGS, "steps=8", "checkpoint.keep=1", "resume=auto"]
    settings += [f"run_dir={run.path}", f"cache_dir={shared_cache}"]
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin(settings)]
    limit = 1_000_000  # bytes of a file: the weights fit, the optimizer's states do not
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert "the checkpoint of step 6 could not be written" in done.stdout.replace("\n", " ")
    assert "the checkpoint of step 8 could not be written" in done.stderr
    assert "step-000004 is the last valid one" in done.stderr
    assert len(read_metrics(run.metrics)) == 8, "the training went on"
    checkpoint, skipped = newest_checkpoint(run.path)
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (4, [])
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-000002", "step-000004"}
    assert main([*settings, f"run_dir={run.path}", f"cache_dir={shared_cache}"]) == 0
    assert read_status(run.path)["status"] == "finished"


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*SETTINGS, "steps=1", f"run_dir={tmp_path / 'file' / 'run'}", f"cache_dir={shared_cache}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_every_damage_of_a_checkpoint_is_found(
    damage: str, trained: Path, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = RunFolder(trained).checkpoint(4)
    for name in sorted(path.name for path in newest.iterdir()):
        size = (newest / name).stat().st_size
        for place in {0, size // 7, size // 2, size - 2}:
            run = tmp_path / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(trained, run)
            file = RunFolder(run).checkpoint(4) / name
            if damage == "delete":
                file.unlink()
            else:
                content = bytearray(file.read_bytes())
                content[place] ^= 0x10
                file.write_bytes(content if damage == "flip" else content[:place])
            checkpoint, skipped = newest_checkpoint(run)
            assert checkpoint is not None, (name, place)
            assert checkpoint.step == 2, (name, place)
            assert len(skipped) == 1
    assert main([*SETTINGS, "steps=4", f"run_dir={run}", f"cache_dir={shared_cache}", "resume=auto"]) == 0
    out = capsys.readouterr().out
    assert "Skipped" in out
    assert "Resuming from step 2" in out
    assert open_checkpoint(RunFolder(run).checkpoint(4)).manifest["files"] == open_checkpoint(newest).manifest["files"]


def test_a_killed_reader_ends_the_run_with_advice(tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin(["steps=5000", "validation=none", "data.workers=1"])]
    command += [f"run_dir={run.path}", f"cache_dir={shared_cache}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(read_metrics(run.metrics)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if "multiprocessing" not in Path(f"/proc/{child}/cmdline").read_text():  # else it is no reader
            os.kill(int(child), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "data.workers=0" in err
    assert "Traceback" not in err
    assert read_status(run.path)["status"] == "failed"


def test_the_best_checkpoint_stays(tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = ["steps=8", "lr_scheduler=constant", "data.holdout=2", "data.workers=0", "checkpoint.every=2"]
    settings += ["checkpoint.keep=1", "validation.num_inference_steps=1", "validation.baseline=false", "optim.lr=0.03"]
    assert main([*settings, f"run_dir={run.path}", f"cache_dir={shared_cache}"]) == 0
    losses = {line["step"]: line["loss"] for line in read_metrics(run.held_out)}
    best = min(losses, key=lambda step: losses[step])
    assert {path.name for path in run.checkpoints.glob("step-*")} == {f"step-{best:06d}", "step-000008"}


def test_other_settings_are_refused_without_resume_changed(
    trained: Path, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    settings = [*SETTINGS, "steps=6", f"run_dir={run}", f"cache_dir={shared_cache}", "resume=auto"]
    assert main([*settings, "task.name=t2v", "model.transformer.spatial_interpolation_scale=1.5"]) == 2
    message = capsys.readouterr().err
    assert "model.transformer was" in message
    assert "resume_changed=true" in message
    assert main([*settings, "model.transformer.spatial_interpolation_scale=1.5", "resume_changed=true"]) == 0
    manifest = open_checkpoint(RunFolder(run).checkpoint(6)).manifest
    assert (manifest["epoch"], manifest["batches_in_epoch"], manifest["processes"]) == (0, 6, 1)


def test_a_checkpoint_becomes_an_export(trained: Path, tmp_path: Path, shared_cache: Path) -> None:
    checkpoint, run = RunFolder(trained).checkpoint(2), RunFolder(tmp_path / "exported")
    settings = [*SETTINGS, f"resume={checkpoint}", "steps=2", f"run_dir={run.path}", f"cache_dir={shared_cache}"]
    assert main(settings) == 0
    exported = load_file(run.export / "transformer" / "diffusion_pytorch_model.safetensors")
    weights = load_file(checkpoint / "trainable.safetensors")
    assert all((exported[name] == weight).all() for name, weight in weights.items())
