"""Fixtures shared by all tests. Nothing here or in the tests is downloaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.console.quiet import quiet_libraries
from tests.entry import with_twin

quiet_libraries()

MakeJob = Callable[..., TrainJob]


def extended(*values: object) -> ParameterSet:
    """A case for `make test-all` only; `values` of the test's parameters."""
    return pytest.param(*values, marks=pytest.mark.extended)


def needs_compiler(what: str) -> None:
    """Skips a test of something that compiles itself (torchao's optimizers, DeepSpeed) where there is no compiler."""
    if what.startswith(("ao_", "cpu_offload8bit", "cpu_offload_bf16", "zero")) and shutil.which("g++") is None:
        pytest.skip("needs g++")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo clips, tiny models and encoded clips, made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_job(shared_cache: Path) -> MakeJob:
    """Composes a checked job, as the entry point does; also where there is a GPU, on the CPU unless it names one."""

    def make(*overrides: str) -> TrainJob:
        settings = [f"cache_dir={shared_cache}", "device=cpu", *with_twin(overrides)]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            job = typed(compose("train", settings), TrainJob)
        assert not check_train(job)
        return job

    return make


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
