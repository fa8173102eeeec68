"""What the jobs of a sweep share, and how a sweep is found again."""

import tempfile
from pathlib import Path

import pytest

from cogvx_exp.config.schema import Sweep
from cogvx_exp.runs.run_folder import RunFolder, read_status, write_status
from cogvx_exp.runs.sweep_folder import find_sweep, link_job, note_sweep
from cogvx_exp.sweep import gpus
from cogvx_exp.sweep.gpus import gpus_of_its_own


def test_jobs_that_run_together_never_have_the_same_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sweep = Sweep(resume=False, gpus=[0, 3], gpus_per_job=1)
    with gpus_of_its_own(sweep) as first:
        with gpus_of_its_own(sweep) as second:
            assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second)] == ["0", "3"]

            def give_up(seconds: float) -> None:
                raise TimeoutError

            monkeypatch.setattr(gpus.time, "sleep", give_up)
            with pytest.raises(TimeoutError), gpus_of_its_own(sweep):  # it waits
                pass
        with gpus_of_its_own(sweep) as third:
            assert third["CUDA_VISIBLE_DEVICES"] == "3", "it is free again"


def test_a_sweep_is_found_by_its_settings_alone(tmp_path: Path) -> None:
    note_sweep(tmp_path / "first", ["seed=0,1", "optim.lr=1e-3"])  # Hydra keeps its own overrides to itself
    given = ["optim.lr=1e-3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "sweep.resume=true"]
    assert find_sweep(given, tmp_path) == tmp_path / "first"
    assert find_sweep(["optim.lr=1e-3", "seed=0,1,2"], tmp_path) is None


def test_a_link_to_another_run_is_replaced_and_that_run_stays(tmp_path: Path) -> None:
    place = tmp_path / "0"
    place.mkdir()
    for name in ("first", "second"):
        write_status(RunFolder(tmp_path / name), name)
        link_job(place, tmp_path / name)
        assert read_status(place)["status"] == name
    assert read_status(tmp_path / "first")["status"] == "first"
