"""Fixtures shared by all tests. Nothing here or in the tests is downloaded."""

import shutil
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path

import pytest
import yaml
from _pytest.mark import ParameterSet
from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.console.quiet import quiet_libraries
from tests.entry import with_twin

quiet_libraries()

GROUPS = {path.name for path in conf_dir().iterdir() if path.is_dir()}
MakeJob = Callable[..., TrainJob]


def extended(*values: object) -> ParameterSet:
    """A case for `make test-all` only; `values` of the test's parameters."""
    return pytest.param(*values, marks=pytest.mark.extended)


def needs_compiler(what: str) -> None:
    """Skips a test of something that compiles itself (torchao's optimizers) where there is no compiler."""
    if what.startswith(("ao_", "cpu_offload8bit", "cpu_offload_bf16")) and shutil.which("g++") is None:
        pytest.skip("needs g++")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo clips, tiny models and encoded clips, made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_job(shared_cache: Path) -> MakeJob:
    """Composes a checked job, as the entry point does; also where there is a GPU, on the CPU unless it names one."""

    def make(*overrides: str) -> TrainJob:
        job = _composed((f"cache_dir={shared_cache}", *overrides))
        assert not check_train(job)
        return job

    return make


@cache
def _composed(overrides: tuple[str, ...]) -> TrainJob:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(compose("train", ["device=cpu", *with_twin(overrides)]), TrainJob)


@pytest.fixture(scope="session")
def edit_job(shared_cache: Path) -> MakeJob:
    """`make_job` in a few milliseconds: groups are composed once, and other settings are put into the result, without
    the rules and without what other settings refer to."""

    def edit(*overrides: str) -> TrainJob:
        groups = tuple(text for text in overrides if text.partition("=")[0] in GROUPS)
        values = _composed(groups).model_dump() | {"cache_dir": shared_cache}
        for text in overrides:
            key, _, value = text.lstrip("+").partition("=")
            *sections, name = key.split(".")
            if text not in groups:
                reduce(dict.__getitem__, sections, values)[name] = yaml.safe_load(value)
        return TrainJob.model_validate(values)

    return edit


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
