"""Trackers get the metrics; none of them can fail a run, make it wait, or write a secret."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cogvx_exp.console import quiet
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_status
from tests.entry import train as main
from tests.entry import with_twin

SHORT = ["steps=4", "data.workers=0", "validation.num_inference_steps=1", "validation.every=2", "data.holdout=2"]

SECRETS = {
    "WANDB_API_KEY": "f" * 20 + "plantedsecret1234567",
    "HF_TOKEN": "hf_plantedsecret",
    "MY_TOKEN": "plantedsecret",
}


def test_wandb_and_tensorboard_get_what_the_run_writes(tmp_path: Path, shared_cache: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin(SHORT), "tracker=[wandb,tensorboard]"]
    command += ["tracker.wandb.mode=offline", f"run_dir={run.path}", f"cache_dir={shared_cache}"]
    environment = os.environ | SECRETS | {"COGVX_LOG": "debug"}  # with the logs of all libraries
    for name in quiet.ENVIRONMENT:  # the tests have set it
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for logger in (
        "launch.start",
        "launch.preflight",
        "latents.prepare",
        "training.checkpoint.saver",
        "tracking.trackers",
    ):
        assert f" INFO cogvx_exp.{logger}: " in done.stderr
    assert re.search(r"^\S+ INFO diffusers\.", done.stderr, re.MULTILINE)
    assert "continuing without" not in done.stdout
    (wandb,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"grad_norm" in wandb.read_bytes()
    assert len(list(run.path.glob("wandb/offline-run-*/files/media/videos/**/*.mp4"))) == 3
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged == pytest.approx({line["step"]: line["loss"] for line in read_metrics(run.metrics)})
    assert len(events.Scalars("held_out/loss")) == 1
    (video,) = events.Tags()["images"]
    assert [event.step for event in events.Images(video)] == [0, 2, 4]
    for path in [*run.path.rglob("*"), *shared_cache.rglob("*.json")]:
        assert not path.is_file() or b"plantedsecret" not in path.read_bytes(), path
    assert "plantedsecret" not in done.stdout + done.stderr


def test_a_server_that_does_not_answer_costs_a_note(tmp_path: Path, shared_cache: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    threading.Thread(target=lambda: accepted.extend(server.accept()[0] for _ in range(100)), daemon=True).start()
    environment = os.environ | SECRETS | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}
    code = "import sys; from cogvx_exp import train; from cogvx_exp.tracking import trackers; "
    code += "trackers.SECONDS_TO_START, trackers.SECONDS_AT_END = 2, 1; sys.exit(train.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *with_twin(SHORT), "tracker=wandb"]
    started = time.monotonic()
    done = subprocess.run(
        [*command, f"run_dir={tmp_path / 'run'}", f"cache_dir={shared_cache}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Note:" in done.stdout
    assert "wandb" in done.stdout
    assert read_status(tmp_path / "run")["status"] == "finished"
    assert time.monotonic() - started < 60, "the waits are limited"


def test_a_tracker_that_fails_costs_a_note(
    tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogvx_exp.tracking import trackers

    def fail(*arguments: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(trackers.TensorBoardTracker, "metrics", fail)
    assert main([*SHORT, "tracker=tensorboard", f"run_dir={tmp_path / 'run'}", f"cache_dir={shared_cache}"]) == 0
    assert "continuing without tensorboard: no such thing" in capsys.readouterr().out
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 4


def test_a_resumed_run_is_the_same_one_for_wandb(tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = ["tracker=wandb", "tracker.wandb.mode=offline", "validation=none", "data.workers=0", "resume=auto"]
    settings += [f"run_dir={run.path}", f"cache_dir={shared_cache}", "checkpoint.every=2"]
    for steps in (2, 4):
        assert main([*settings, f"steps={steps}"]) == 0
    names = {path.name.rpartition("-")[2] for path in run.path.glob("wandb/offline-run-*")}
    assert len(names) == 1
