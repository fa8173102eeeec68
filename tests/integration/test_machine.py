"""Machines that are small, full, read-only or shared, as the entry points meet them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

import cogvx_exp.launch.start as launch_start
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.files import new_folder, write_json
from cogvx_exp.runs.run_folder import RunFolder, read_status, write_status
from tests.entry import prepare, train, with_twin

SHORT = ["steps=2", "validation=none", "lr_scheduler=constant"]


def in_namespace(prepare: str, command: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """Runs a command where mounts are its own, after a line of shell; skips the test where that is not allowed."""
    inside = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    allowed = subprocess.run([*inside, prepare], cwd=cwd, capture_output=True, text=True, check=False)
    if allowed.returncode:
        inside = ["unshare", "--mount", "bash", "-c"]
        allowed = subprocess.run([*inside, prepare], cwd=cwd, capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no namespaces here: {allowed.stderr}")
    script = f'{prepare} && exec "$@"'
    return subprocess.run(
        [*inside, script, "bash", *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_little_shared_memory_is_enough(in_tmp: Path, shared_cache: Path) -> None:
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin([*SHORT, "data.workers=2"])]
    command += ["run_dir=run", f"cache_dir={shared_cache}"]
    done = in_namespace("mount -t tmpfs -o size=64k tmpfs /dev/shm", command, in_tmp)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "using data.workers=0" not in done.stdout, "there is room for two"
    assert read_status(in_tmp / "run")["status"] == "finished"


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_damaged_shared_cache_is_repaired(
    in_tmp: Path, group_umask: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that is written has the mode of the umask and the group of its folder."""
    cache, run = in_tmp / "cache", in_tmp / "run"
    cache.mkdir()
    cache.chmod(0o2775)
    assert prepare([f"cache_dir={cache}"]) == 0
    entries = {path: path.read_bytes() for path in sorted((cache / "encoded").rglob("*.safetensors"))}
    damaged = [next(path for path in entries if len(entries[path]) != size) for size in {*map(len, entries.values())}]
    assert len(damaged) == 2, "a clip and a caption"
    for path in damaged:
        path.write_bytes(entries[path][:100])
    (cache / "index.sqlite").write_bytes(b"this was an index" * 100)
    capsys.readouterr()
    assert train([*SHORT, "data.workers=0", f"cache_dir={cache}", f"run_dir={run}"]) == 0
    output = capsys.readouterr().out
    assert output.count("encoding it again") == 2
    assert output.count("Rebuilding") == 1
    assert {path: path.read_bytes() for path in entries} == entries
    for path in [*cache.rglob("*"), *run.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path
        assert path.stat().st_mode & 0o2000 or path.is_relative_to(run) or path.is_file(), path


@pytest.mark.parametrize("command", [prepare, train])
def test_a_cache_dir_that_is_a_file_is_named(command, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "file").write_text("")
    assert command(["cache_dir=file"]) == 2
    captured = capsys.readouterr()
    assert "cache_dir=file: this path or one of its parents is a file" in captured.err
    assert "Encoded" not in captured.out


def test_runs_and_sweeps_of_one_second_have_folders_of_their_own(
    in_tmp: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time stands still; the work itself does not matter here."""
    now = "2030-01-02_03-04-05"
    monkeypatch.setattr(launch_start, "datetime", SimpleNamespace(now=lambda: datetime(2030, 1, 2, 3, 4, 5)))
    monkeypatch.setattr(launch_start, "_run_here", lambda *about: None)
    for _ in range(2):
        assert train([*SHORT, f"cache_dir={shared_cache}", "name=a"]) == 0
    assert {path.name for path in Path("outputs").iterdir()} == {f"{now}_a", f"{now}_a_2"}

    def note_place(job: TrainJob, overrides: list[str]) -> float:
        write_status(RunFolder(Path(HydraConfig.get().runtime.output_dir)), "finished")
        write_json(Path(HydraConfig.get().runtime.output_dir) / "summary.json", {"loss_last_tenth": 1, "seconds": 1})
        return 0.0

    monkeypatch.setattr("cogvx_exp.launch.start.launch", note_place)
    (Path("outputs/multirun") / "taken").mkdir(parents=True)
    monkeypatch.setattr("cogvx_exp.sweep.callback.new_folder", lambda folder: new_folder(folder.with_name("taken")))
    assert train(["-m", *SHORT, "seed=1,2"]) == 0
    assert sorted(path.name for path in Path("outputs/multirun/taken_2").glob("[0-9]")) == ["0", "1"]
    assert not list(Path("outputs/multirun/taken").iterdir())


def test_a_read_only_working_directory_is_reported(in_tmp: Path, shared_cache: Path) -> None:
    """Every command: one line, or plain work."""
    prepare = "mount --bind . . && mount -o remount,ro,bind . && cd /proc/self/cwd/."
    run = [sys.executable, "-m"]
    commands = {
        "train": [*with_twin(SHORT), f"cache_dir={shared_cache}"],
        "train -m": ["-m", *with_twin(SHORT), f"cache_dir={shared_cache}", "seed=1,2"],
        "report": ["nothing"],
    }
    for name, arguments in commands.items():
        command = [*run, f"cogvx_exp.{name.split()[0]}", *arguments]
        done = in_namespace(f"cd / && cd {in_tmp} && {prepare}", command, in_tmp)
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Read-only file system" in done.stderr or name == "report"
