"""Old names of settings give the same job as the new ones, and one note."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogvx_exp.config.command_line.config_files import FileConfigSource
from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.renames import RENAMES, noting_renames, renamed_config, renamed_override
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.reporting.runs import find_runs
from cogvx_exp.runs.run_folder import RunFolder, read_job
from cogvx_exp.runs.sweep_folder import find_sweep, note_sweep
from tests.conftest import MakeJob
from tests.entry import CLIPS
from tests.old_names import with_old_names

KWARGS, DEFAULTS, WEIGHTS, DROPOUT = RENAMES

FILES = {
    "optim/mine.yaml": "defaults: [_base, _self_]\nname: mine\ntarget: torch.optim.SGD\n{kwargs}: {{momentum: 0.5}}\n",
    "model/mine.yaml": "defaults: [tiny, _self_]\n{defaults}: {{rank: 3, lr: {{full: 0.25}}}}\nweights: {bundled}\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults: [{{override /optim: mine}}, {{override /model: mine}}]\n"
    "optim: {{{kwargs}: {{nesterov: true}}, lr: '${{model.{defaults}.lr.full}}'}}\n",
    "experiment/package.yaml": "# @package model.{defaults}\nbatch_size: 7\n",
    "experiment/sweep.yaml": "# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {{"
    "optim: muon, optim.{kwargs}.momentum: 0.25, model.weights: 'random,{bundled}', seed: 3}}}}}}\n",
}
"""A user's config folder."""
NEW = {"kwargs": "kwargs", "defaults": "training_defaults", "bundled": "bundled"}
OLD = {"kwargs": "settings", "defaults": "usual", "bundled": "shipped"}


def jobs_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[TrainJob], list[str]]:
    """The jobs of a command line, and its output."""
    jobs: list[TrainJob] = []
    main = EntryPoint("train", TrainJob, lambda job, overrides: jobs.append(job), check_train)
    assert main(arguments) == 0
    return jobs, capsys.readouterr().err.splitlines()


def write_files(words: dict[str, str]) -> Path:
    folder = Path("old" if words is OLD else "new")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.format(**words))
    return folder


def notes(*names: str) -> list[str]:
    return [f"Note: {name} is now {RENAMES[name]}; the old name will not work in the next release" for name in names]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+optim.settings.amsgrad=true", "+optim.kwargs.amsgrad=true"),
        ("~optim.settings.momentum", "~optim.kwargs.momentum"),
        ("optim.settings={a:1}", "optim.kwargs={a:1}"),
        ("optim.lr=${model.usual.lr.full}", "optim.lr=${model.training_defaults.lr.full}"),
        ("model.weights='shipped','random'", "model.weights='bundled','random'"),
        ("model.usually=shipped", "model.usually=shipped"),
        ("name=shipped", "name=shipped"),
    ],
)
def test_an_override(old: str, new: str) -> None:
    assert renamed_override(old) == new


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], in_tmp: Path) -> None:
    old = "optim=muon optim.settings.momentum=0.5 model.usual.rank=2 model.usual.lr.adapter=3 model.weights=shipped"
    (given,), printed = jobs_of(capsys, *old.split())
    (job,), nothing = jobs_of(capsys, "optim=muon", "optim.kwargs.momentum=0.5", "method.rank=2", "optim.lr=3")
    assert printed == notes(*sorted(RENAMES.keys() - {DROPOUT}))
    assert not nothing
    assert (given.optim, given.method) == (job.optim, job.method)
    assert given.model.training_defaults.lr.adapter == 3
    assert given.model.weights == job.model.weights == "bundled"


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [("experiment=mine optim.settings.momentum=0.75 +optim.settings.dampening=0", 1), ("experiment=sweep", 2)],
)
def test_in_files(arguments: str, jobs: int, capsys: pytest.CaptureFixture[str], in_tmp: Path) -> None:
    """Later values win, with old or new names."""
    given, printed = jobs_of(capsys, "--config-dir", str(write_files(OLD)), *arguments.split())
    new_files = str(write_files(NEW))
    expected, nothing = jobs_of(capsys, "--config-dir", new_files, *arguments.replace("settings", "kwargs").split())
    assert given == expected
    assert len(given) == jobs
    assert sorted(printed) == sorted(notes(KWARGS, WEIGHTS) if jobs > 1 else notes(KWARGS, DEFAULTS, WEIGHTS))
    assert not nothing
    assert jobs > 1 or given[0].method.rank == 3
    package = FileConfigSource("test", str(in_tmp / "old")).load_config("experiment/package")
    assert package.header["package"] == "model.training_defaults"


def test_in_stored_runs(in_tmp: Path, make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job("model=tiny", "optim=muon", *CLIPS)
    run = RunFolder(in_tmp / "run")
    run.start(job, ["optim=muon", "+optim.settings.x=1", "model.usual.rank=2"])
    stored = with_old_names(yaml.safe_load(run.config.read_text()))
    run.config.write_text(yaml.safe_dump(stored))
    note_sweep(in_tmp / "sweep", ["model.weights=shipped,random"])
    with noting_renames():
        assert read_job(run.path) == job
        (found,) = find_runs([run.path])
        assert found.settings["optim.kwargs.momentum"] == 0.95
        assert not [name for name in found.settings if name.startswith(("optim.settings", "model.usual"))]
        assert run.overrides() == ["optim=muon", "+optim.kwargs.x=1", "model.training_defaults.rank=2"]
        assert find_sweep(["model.weights=bundled,random"], in_tmp) == in_tmp / "sweep"
    assert capsys.readouterr() == ("", "")


def test_both_names_in_one_place() -> None:
    for first, second in (("settings", "kwargs"), ("kwargs", "settings")):
        values = {"settings": {"a": 1, "b": {"c": 1, "d": 1}}, "kwargs": {"b": {"c": 2}}}
        both: dict[str, Any] = {"optim": {first: values[first], second: values[second]}}
        assert renamed_config(both) == {"optim": {"kwargs": {"a": 1, "b": {"c": 2, "d": 1}}}}


def test_the_table_can_be_applied_and_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for old, new in RENAMES.items():
        assert f"| `{old}` | `{new}` |" in page
        assert old.rpartition(".")[0] == new.rpartition(".")[0], "a file of a group knows its own section only"
        assert old.partition("=")[0] != new.partition("=")[0] or "=" in old


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: 1")
    source = FileConfigSource("test", f"file://{tmp_path}")
    first = source.load_config("a").config
    first.rate = 7  # as Hydra does when it merges
    assert source.load_config("a").config.rate == 1
    (tmp_path / "a.yaml").write_text("rate: 2")
    os.utime(tmp_path / "a.yaml", ns=(1, 1))
    assert source.load_config("a").config.rate == 2
