"""tracker=trackio, with a stand-in for the package; the package itself is tried where it is installed."""

import inspect
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.schema.trackers import Tracker, Trackio
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.runs.sweep_folder import ABOUT
from cogvx_exp.tracking.trackers import Trackers
from tests import trackio_stand_in
from tests.conftest import MakeJob

REAL = find_spec("trackio") is not None
needs_trackio = pytest.mark.skipif(not REAL, reason="trackio is not installed: it needs pillow<13, pinned is 13")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, module in trackio_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "database"))
    return tmp_path / "database"


def job_with(make_job: MakeJob, **settings: Any) -> TrainJob:
    trackio = Trackio(**{"project": "style", "group": None, "space": None, "videos": True} | settings)
    return make_job("validation=none").model_copy(update={"tracker": Tracker(trackio=trackio)})


def track(job: TrainJob, folder: RunFolder, *steps: int) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    video = folder.path / "a.mp4"
    video.touch()
    trackers = Trackers(job, folder)
    for step in steps:
        trackers.metrics({"step": step, "loss": step / 8})
        trackers.videos(step, [video], ["a circle"])
    trackers.finish()


def kept(database: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(database.iterdir())]


def test_a_run_is_kept_and_resumed_under_its_name(
    database: Path, tmp_path: Path, make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job, folder = job_with(make_job), RunFolder(tmp_path / "run")
    track(job, folder, 1, 2)
    (first,) = kept(database)
    assert first["about"]["name"] == (folder.path / "trackio_name.txt").read_text()
    assert first["about"]["name"].startswith("run-")
    assert first["about"]["config"] == job.model_dump(mode="json")
    assert {name: first["about"][name] for name in ("project", "group", "space_id", "embed")} == {
        **{"project": "style", "group": None, "space_id": None, "embed": False}
    }
    videos = {"videos/a": ["a.mp4", "a circle"]}
    assert first["logged"] == [[1, {"loss": 0.125}], [1, videos], [2, {"loss": 0.25}], [2, videos]]
    track(job, folder, 2, 3)  # after a crash: step 2 is repeated
    (resumed,) = kept(database)
    assert [step for step, _ in resumed["logged"]] == [1, 1, 2, 2, 3, 3]
    (folder.path / "trackio_name.txt").unlink()  # as when it goes on from an older checkpoint
    track(job, folder, 2)
    assert len(kept(database)) == 2
    assert "Trackio project" not in capsys.readouterr().out


def test_settings_reach_trackio(database: Path, tmp_path: Path, make_job: MakeJob) -> None:
    track(job_with(make_job, group="g", space="me/space", videos=False), RunFolder(tmp_path / "run"), 1)
    (run,) = kept(database)
    assert run["logged"] == [[1, {"loss": 0.125}]]
    given = {name: run["about"][name] for name in ("project", "group", "space_id", "private")}
    assert given == {"project": "style", "group": "g", "space_id": "me/space", "private": True}
    assert run["about"]["user"] == "asked the Hub", "a Space belongs to somebody"
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / ABOUT).write_text("{}")
    track(job_with(make_job, project="other"), RunFolder(tmp_path / "sweep" / "0"), 1)
    by_project = {run["about"]["project"]: run["about"] for run in kept(database)}
    assert by_project["other"]["group"] == "sweep"
    assert by_project["other"]["user"] is None, "nothing is asked of the Hub for a run on this machine"


def test_what_is_wrong_is_refused(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvx_exp.config.rules.sharing.find_spec", lambda name: None)
    issues = {issue.setting: issue.problem for issue in check_train(job_with(make_job, space="a name"))}
    assert issues["tracker=trackio"] == "is not installed: pip install trackio"
    assert issues["tracker.trackio.space=a name"] == "must be owner/name"


@needs_trackio
def test_the_stand_in_is_called_as_the_package() -> None:
    import trackio

    def names(function: Any) -> list[tuple[str, Any]]:
        return [(name, one.default) for name, one in inspect.signature(function).parameters.items()]

    assert names(trackio.init) == names(trackio_stand_in.init)
    assert names(trackio.Video) == names(trackio_stand_in.Video)
    assert names(trackio.Run.log) == names(trackio_stand_in.Run.log)
    assert callable(trackio.run._get_default_namespace)


TWICE = """
import socket, sys
from pathlib import Path
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.trackers import Trackers

def refuse(*arguments):
    print("CONNECTS", arguments[-1])
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = refuse
folder = RunFolder(Path("run"))
job = TrainJob.model_validate_json(Path("job.json").read_text())
for steps in ((1, 2), (2, 3)):
    trackers = Trackers(job, folder, steps[0] - 1)
    for step in steps:
        trackers.metrics({"step": step, "loss": step / 8})
        trackers.videos(step, [Path("a.mp4")], ["a circle"])
    trackers.finish()
"""


@needs_trackio
def test_the_package_keeps_everything_on_this_machine(tmp_path: Path, make_job: MakeJob) -> None:
    job = job_with(make_job)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    (tmp_path / "a.mp4").write_bytes(b"a video")
    (tmp_path / "run").mkdir()
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "database"), "HF_TOKEN": "hf_plantedsecret"}
    command = [sys.executable, "-c", TWICE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    look = "import json, trackio, trackio.sqlite_storage as s; (run,) = trackio.Api().runs('style')\n"
    look += "print(json.dumps([run.name, run.config, s.SQLiteStorage.get_logs('style', run.name)]))"
    shown = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    name, config, logs = json.loads(shown.stdout)
    assert name == (tmp_path / "run" / "trackio_name.txt").read_text()
    assert config["optim"] == job.model_dump(mode="json")["optim"]
    assert [(line["step"], line["loss"]) for line in logs if "loss" in line] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    videos = [line["videos/a"] for line in logs if "videos/a" in line]
    assert [video["caption"] for video in videos] == ["a circle"] * 3
    assert (tmp_path / "database" / "media" / videos[0]["file_path"]).read_bytes() == b"a video"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"plantedsecret" not in path.read_bytes(), path
