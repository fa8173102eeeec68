"""`python -m benchmarks.gpu --simulate`: the measurements of a GPU, as a dry run on the software CUDA device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.results import Result, Results
from tests.software_cuda import ROOT
from tests.software_cuda.runs import device_environment

ROW = "model=2b method=lora method.rank=64 memory=16gb"


def bench(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command; its results go to `out`."""
    device_environment()  # skips where there is no compiler
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--simulate", "--out", str(out)]
    return subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)


def by_settings(out: Path) -> dict[str, Result]:
    return {result.get("settings", result["key"]): result for result in Results(out).by_key().values()}


def test_one_measurement_from_random_weights_to_the_page(tmp_path: Path) -> None:
    done = bench(tmp_path, "2b", "--only", "memory=16gb")
    assert done.returncode == 0, done.stdout + done.stderr
    result = by_settings(tmp_path)[ROW]
    assert result["status"] == "measured", result
    assert result["simulated"]
    assert result["timed_steps"] == 5
    assert result["step_seconds"] > 0
    assert result["machine"]["device"] == "Software CUDA"
    memory = result["memory"]
    assert 0 < memory["before_training"]["allocated"] < memory["training"]["allocated"] < 1
    assert memory["training"]["allocated"] <= memory["training"]["reserved"] <= memory["training"]["process"]
    assert memory["training"]["pinned"] > 0, "activations wait on the host"
    page = (tmp_path / "docs" / "measured.md").read_text()
    assert f"| `{ROW}` | {result['step_seconds']:.2f} |" in page
    again = bench(tmp_path, "2b", "--only", "memory=16gb")
    assert "0 results" in again.stdout
    assert "0 are left" in again.stdout


def test_impossible_runs_are_reported_in_one_line(tmp_path: Path) -> None:
    unknown = bench(tmp_path, "6b")
    assert unknown.returncode == 2
    assert unknown.stdout.startswith("there is no piece 6b; there are tests, blocks, 2b, 5b,")
    assert unknown.stderr == ""


@pytest.mark.cuda_matrix
def test_a_failed_measurement_is_recorded_and_the_rest_continues(tmp_path: Path) -> None:
    """A card that is too small, and a Factory that is not there."""
    one = ["reference", "--only", "model=2b method=lora", "--reference", str(tmp_path / "nothing")]
    done = bench(tmp_path, *one, SOFTWARE_CUDA_TOTAL_MIB="2")
    assert done.returncode == 1
    ours, theirs = Results(tmp_path).by_key().values()
    assert ours["status"] == "out of memory", ours
    assert theirs["status"] == "failed"
    assert "give a checkout of the CogVideoX Factory" in theirs["error"]
    assert "out of memory: " in (tmp_path / "docs" / "measured.md").read_text()


@pytest.mark.cuda_matrix
def test_every_kind_of_piece_runs(tmp_path: Path) -> None:
    """Tests, image-to-video, 1.5, an optimizer on the host, and time that is over."""
    tests = bench(tmp_path, "tests", "--only", "plain or attention", "--minutes", "30")
    assert tests.returncode == 0, tests.stdout
    results = by_settings(tmp_path)
    assert {result["status"] for result in results.values()} == {"passed"}
    assert sum("test_gpu_kernels.py" in name for name in results) == 2
    assert any(name.endswith("test_losses_are_those_of_the_cpu[plain]") for name in results)
    for piece, only in (("1.5-5b-i2v", "method=lora"), ("5b-sft", "cpu_offload_bf16")):
        done = bench(tmp_path, piece, "--only", only)
        assert done.returncode == 0, done.stdout
        assert "1 results" in done.stdout
    over = bench(tmp_path, "5b", "--minutes", "0.01")
    assert "0 results" in over.stdout
    assert "5 are left" in over.stdout
