"""The command that predicts memory, and the check before training."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.entry import memory, train


def test_a_run_that_will_not_fit_is_refused_before_anything_is_loaded(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], shared_cache: Path
) -> None:
    settings = ["memory.budget=0.72", f"cache_dir={shared_cache}", "run_dir=run", "memory.activations=keep"]
    assert train([*settings, "batch_size=16", "steps=1"]) == 2
    message = capsys.readouterr().err
    assert "which exceeds memory.budget=0.72" in message
    assert "With these settings it takes 0.0 GiB, which would fit:\n  " in message
    assert "Traceback" not in message
    assert not Path("run").exists()
    assert train([*settings, "memory.budget=4", "steps=1", "validation=none"]) == 0
    assert "Predicted peak memory" in capsys.readouterr().out
    summary = json.loads(Path("run/summary.json").read_text())
    assert set(summary["memory_figures"]) == {"before_training", "before_validation"}


def test_grid_of_predictions(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory(["-m", "method=lora,sft", "optim=adamw,adamw8bit", "memory.budget=1"]) == 0
    out = capsys.readouterr().out
    for label in ("lora adamw ", "lora adamw8bit", "sft adamw ", "sft adamw8bit"):
        assert label in out
    figures = json.loads(Path("outputs/memory/grid.json").read_text())
    assert figures[0]["trained"] < figures[2]["trained"]
    assert [time["card"] for time in figures[0]["times"]] == ["a100", "h100", "rtx4090"]
    assert "s/step" in out
    assert Path("outputs/memory/grid.png").stat().st_size > 10_000
    assert [path.name for path in Path("outputs").iterdir()] == ["memory"]


def test_5b_is_predicted_with_little_memory_of_our_own(in_tmp: Path) -> None:
    command = [sys.executable, "-m", "cogvx_exp.memory", "model=5b", "method.rank=64", "memory.activations=offload"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Fits 24 GiB" in done.stdout
    assert done.stderr == ""
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20, "KiB"
    (figures,) = json.loads(Path("outputs/memory/5b-t2v-lora.json").read_text())
    assert figures["weights"] == pytest.approx(5.571e9 * 2 / 2**30, rel=0.01), "5.57 billion bfloat16 weights"
    assert figures["phases"]["before_validation"] < 14.5
    (hours,) = (time["hours"] for time in figures["times"] if time["card"] == "h100")
    assert 2 < hours < 4, "3,000 steps"
    assert "h100, assumed: 989 TFLOP/s, of which products reach 70%" in done.stdout
