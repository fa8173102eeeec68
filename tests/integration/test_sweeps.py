"""The example sweeps run as they are."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from cogvx_exp.memory import main as memory
from cogvx_exp.tracking.run_folder import read_status
from cogvx_exp.train import main

EXAMPLES = Path(__file__).resolve().parents[2] / "multirun_examples"
SWEEPS = sorted(path.stem for path in (EXAMPLES / "sweep").glob("*.yaml"))


def jobs(name: str) -> int:
    """How many jobs a sweep has, as its README says."""
    (row,) = (line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith(f"| `{name}`"))
    return int(row.rstrip(" |").rpartition("|")[2])


@pytest.mark.parametrize("name", [name for name in SWEEPS if name not in ("memory_tables", "resolution_buckets")])
def test_example_runs_on_the_tiny_model(name: str, in_tmp: Path, shared_cache: Path) -> None:
    short = ["steps=1", "validation=none", "data.workers=0", "lr_scheduler.warmup_steps=0", f"cache_dir={shared_cache}"]
    assert main(["--config-dir", str(EXAMPLES), f"+sweep={name}", *short]) == 0
    runs = [path for path in Path("outputs/multirun").glob("*/*") if path.is_dir()]
    assert len(runs) == jobs(name)
    assert {read_status(run)["status"] for run in runs} == {"finished"}


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


def test_the_slurm_script_is_one() -> None:
    subprocess.run(["bash", "-n", EXAMPLES / "slurm_train.sh"], check=True)
