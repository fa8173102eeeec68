"""The software CUDA device itself, before anything is tested on it, and parts of the product on it."""

import subprocess
import sys

import pytest

from tests.software_cuda import ROOT
from tests.software_cuda.runs import device_environment


@pytest.mark.parametrize(("checks", "devices"), [("device_checks", 1), ("product_checks", 2), ("stream_checks", 1)])
def test_on_the_device(checks: str, devices: int) -> None:
    """Each file is a pytest of its own: the device is never loaded in this process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command.append(f"tests/software_cuda/{checks}.py")
    env = device_environment(devices)
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "s" not in done.stdout.split()[0], "none was skipped"
