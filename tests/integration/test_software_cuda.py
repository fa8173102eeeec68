"""The software CUDA device itself, before anything is tested on it."""

import subprocess
import sys

from tests.software_cuda import ROOT
from tests.software_cuda.runs import device_environment


def test_the_device_behaves_as_a_cuda_device_does() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    checks = [*command, "tests/software_cuda/device_checks.py"]
    done = subprocess.run(checks, env=device_environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert done.stdout.count(".") >= 15, "they were not skipped"
