"""Machines that are small, full, read-only or shared, as the entry points meet them."""

import subprocess
import sys
from pathlib import Path

import pytest

from cogvx_exp.tracking.run_folder import read_status
from tests.entry import with_twin

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
