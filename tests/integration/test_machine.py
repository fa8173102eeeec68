"""Machines that are small, full, read-only or shared, as the entry points meet them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx_exp.tracking.run_folder import read_status
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
    assert "going on with" not in done.stdout, "there is room for two"
    assert read_status(in_tmp / "run")["status"] == "finished"


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_shared_cache_that_was_damaged_is_mended(
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
    told = capsys.readouterr().out
    assert told.count("it is encoded again") == 2
    assert told.count("Rebuilding") == 1
    assert {path: path.read_bytes() for path in entries} == entries
    for path in [*cache.rglob("*"), *run.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path
        assert path.stat().st_mode & 0o2000 or path.is_relative_to(run) or path.is_file(), path


@pytest.mark.parametrize("command", [prepare, train])
def test_a_cache_dir_that_is_a_file_is_named(command, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "file").write_text("")
    assert command(["cache_dir=file"]) == 2
    told = capsys.readouterr()
    assert "cache_dir=file: this, or a folder above it, is a file" in told.err
    assert "Encoded" not in told.out
