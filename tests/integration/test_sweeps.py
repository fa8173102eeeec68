"""The example sweeps run as they are."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cogvx_exp.core.files import read_json
from cogvx_exp.memory import main as memory
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import LORA_FILE, RunFolder, write_status
from cogvx_exp.runs.sweep_folder import job_folders, read_sweep_job
from cogvx_exp.train import main as real_train
from tests.conftest import extended
from tests.entry import train as main

EXAMPLES = Path(__file__).resolve().parents[2] / "multirun_examples"
SHORT = ["steps=1", "validation=none", "data.workers=0", "lr_scheduler.warmup_steps=0"]
SWEEPS = sorted(path.stem for path in (EXAMPLES / "sweep").glob("*.yaml"))


def jobs(name: str) -> int:
    """How many jobs a sweep has, as its README says."""
    (row,) = (line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith(f"| `{name}`"))
    return int(row.rstrip(" |").rpartition("|")[2])


def example(name: str, *overrides: str) -> int:
    return main(["--config-dir", str(EXAMPLES), f"+sweep={name}", *SHORT, *overrides])


def statuses() -> list[str]:
    """How the jobs of the only sweep stand."""
    (sweep,) = Path("outputs/multirun").iterdir()
    return [read_sweep_job(folder).status for folder in job_folders(sweep)]


@pytest.mark.parametrize(("name", "less"), [extended("learning_rate", "optim.lr=1e-3"), extended("seeds", "seed=0,1")])
def test_example_runs_on_the_tiny_model(name: str, less: str, in_tmp: Path, shared_cache: Path) -> None:
    """Two of its jobs."""
    assert example(name, less, f"cache_dir={shared_cache}") == 0
    assert statuses() == ["finished"] * 2


@pytest.mark.parametrize("name", ["learning_rate", "seeds", "rank_alpha", "resolution_buckets"])
def test_every_job_of_an_example_is_possible(name: str, in_tmp: Path, shared_cache: Path, monkeypatch) -> None:
    """Each job is composed and checked; what it would run on is not here, or is the same as above."""
    composed = []
    monkeypatch.setattr("cogvx_exp.launch.start.launch", lambda job, overrides: composed.append(job))
    example(name)
    assert len(composed) == jobs(name)


@pytest.mark.parametrize("name", ["several_gpus", "slurm", "optuna"])
def test_examples_for_other_launchers_compose(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        real_train(["--config-dir", str(EXAMPLES), f"+sweep={name}", "model=5b", "data.root=clips", "--cfg", "job"])
        == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["model"]["name"] == "5b"


def test_a_search_with_optuna_follows_the_loss(in_tmp: Path, shared_cache: Path) -> None:
    assert example("optuna", f"cache_dir={shared_cache}", "hydra.sweeper.n_trials=2") == 0
    (sweep,) = Path("outputs/multirun").iterdir()
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())["best_value"]
    assert best == min(read_sweep_job(folder).loss for folder in job_folders(sweep))


@pytest.mark.extended
def test_a_search_with_optuna_follows_a_score(in_tmp: Path, shared_cache: Path) -> None:
    settings = ["steps=1", "data.workers=0", "lr_scheduler.warmup_steps=0", "validation.num_inference_steps=2"]
    search = ["sweep.objective=score.likeness", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    found = ["--config-dir", str(EXAMPLES), "+sweep=optuna", *settings, *search, f"cache_dir={shared_cache}"]
    assert main(found) == 0
    (sweep,) = Path("outputs/multirun").iterdir()
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())["best_value"]
    scores = [read_metrics(RunFolder(folder).scores)[-1]["likeness"] for folder in job_folders(sweep)]
    assert len(set(scores)) == 2
    assert best == pytest.approx(max(scores))


def test_jobs_that_run_together_have_a_gpu_each(in_tmp: Path, shared_cache: Path) -> None:
    """In real processes of joblib; that they see no GPU here does not matter to who gets which."""
    where = [f"cache_dir={shared_cache}", "hydra.launcher.n_jobs=2", "sweep.gpus=[0,1]", "method.rank=4"]
    assert example("several_gpus", *where, "optim.lr=1e-3,1e-4") == 0
    (sweep,) = Path("outputs/multirun").iterdir()
    seen = [read_json(folder / "environment.json")["visible_gpus"] for folder in job_folders(sweep)]
    assert set(seen) <= {"0", "1"}
    assert statuses() == ["finished", "finished"]


@pytest.mark.extended
def test_slurm_jobs_run_as_submitit_starts_them(in_tmp: Path, shared_cache: Path) -> None:
    """Slurm's launcher in its local form: the same pickled job in a process of its own."""
    assert main(["-m", "hydra/launcher=submitit_local", "seed=0,1", *SHORT, f"cache_dir={shared_cache}"]) == 0
    assert statuses() == ["finished", "finished"]


def test_the_same_command_again_runs_what_is_missing_or_failed(
    in_tmp: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three jobs one fails at first, for a reason that lies outside of its settings, and one was killed."""
    sweep = ["-m", "seed=0,1,2", *SHORT, "steps=4", "checkpoint.every=2", f"cache_dir={shared_cache}"]
    assert main(sweep) == 0
    (folder,) = Path("outputs/multirun").iterdir()
    finished, killed, failed = job_folders(folder)
    weights = {path: load_file(path / "export" / LORA_FILE) for path in (finished, killed, failed)}
    before = (finished / "metrics.jsonl").stat().st_mtime_ns

    write_status(RunFolder(killed), "running", pid=2**22 + 1, host=platform.node())
    shutil.rmtree(killed / "checkpoints" / "step-000004")
    shutil.rmtree(killed / "export")
    shutil.rmtree(failed)
    note = RunFolder(failed)
    failed.mkdir()
    write_status(note, "failed", message="CUDA out of memory", overrides=["seed=2"])
    assert statuses() == ["finished", "lost", "failed"]
    capsys.readouterr()
    assert main([*sweep, "sweep.resume=true"]) == 0

    assert statuses() == ["finished"] * 3
    assert (finished / "metrics.jsonl").stat().st_mtime_ns == before, "it was not run again"
    assert "Resuming from step 2" in (killed / "output.log").read_text()
    for path, exported in weights.items():
        again = load_file(path / "export" / LORA_FILE)
        assert all(torch.equal(again[name], exported[name]) for name in exported), path
    monkeypatch.setattr("cogvx_exp.launch.start.launch", lambda job, overrides: 0.0)
    assert main([*sweep, "seed=0", "sweep.resume=true"]) == 0, "another command is another sweep"
    assert len(list(Path("outputs/multirun").iterdir())) == 2


def test_a_failed_job_is_recorded_and_the_others_run(in_tmp: Path, shared_cache: Path, capsys) -> None:
    assert main(["-m", "optim.lr=1e-3,-1", "seed=0", *SHORT, f"cache_dir={shared_cache}"]) == 2
    captured = capsys.readouterr()
    assert "1 of 2 jobs failed (1); the same command with sweep.resume=true" in captured.err
    assert "Job 1 failed: optim.lr=-1; optim.lr=-1 must be greater" in captured.out
    assert statuses() == ["finished", "failed"]
    (sweep,) = Path("outputs/multirun").iterdir()
    repeat = (sweep / "0" / "command.txt").read_text()
    assert "optim.lr=0.001 seed=0 steps=1" in repeat


@pytest.mark.extended
def test_memory_tables(in_tmp: Path) -> None:
    command = ["--config-dir", str(EXAMPLES), "+sweep=memory_tables"]
    small = ["model.transformer.num_layers=1", "validation=none", "data.frame_buckets=[9]"]
    assert memory([*command, *small, "data.height_buckets=[64]", "data.width_buckets=[64]"]) == 0
    assert len(json.loads(Path("outputs/memory/grid.json").read_text())) == jobs("memory_tables")


def test_every_file_is_in_the_readme() -> None:
    for name in SWEEPS:
        assert jobs(name) > 0
        assert yaml.safe_load((EXAMPLES / "sweep" / f"{name}.yaml").read_text())["hydra"]["mode"] == "MULTIRUN"


def test_a_sweep_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-dir", str(EXAMPLES), "+sweep=seed"]) == 2
    assert "did you mean seeds?" in capsys.readouterr().err


@pytest.mark.extended
def test_the_ci_workflow_does_what_it_says(tmp_path: Path, shared_cache: Path) -> None:
    """Its commands run as they stand, but for the installation and the prediction for 5b, which is tested elsewhere."""
    workflow = yaml.safe_load((EXAMPLES / "ci.yml").read_text())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | workflow["env"] | {"CONFIGS": str(EXAMPLES), "PATH": path}
    steps = {step.get("name"): step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step}
    compose, train = steps["They compose, with every real model"], steps["They train"]
    for script in (compose, train.replace("run_dir=run", f"run_dir=run cache_dir={shared_cache}")):
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report" / "index.html").exists()
    broken = environment | {"OVERRIDES": "method=lora optim=adamw8bit optim.stochastic_rounding=true"}
    done = subprocess.run(["bash", "-ec", compose], cwd=tmp_path, env=broken, capture_output=True, text=True)
    assert done.returncode == 2
    assert "stochastic_rounding" in done.stderr


def test_the_slurm_script_is_one() -> None:
    subprocess.run(["bash", "-n", EXAMPLES / "slurm_train.sh"], check=True)
