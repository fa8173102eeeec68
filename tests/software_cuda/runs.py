"""Runs the entry points on software GPUs and hands back what came out. The test process never sees the device."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.software_cuda import ROOT, environment
from tests.software_cuda.build import NoCompilerError


@dataclass(frozen=True)
class Case:
    """A call of an entry point."""

    settings: Sequence[str]
    command: str = "train"
    """A function of tests/entry.py."""
    total_mib: int | None = None
    """Size of the device; None: 80 GiB."""
    races: int = 2
    """0: accesses without an order are not looked for, 1: told in `Outcome.races`, 2: raised in the run, too."""
    park: int | None = None
    """Values of a tensor from which it is parked (`model.blocks.WORTH_PARKING`); None: as in a run."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a case."""

    code: int
    """The exit code; -1: an exception came out of the entry point."""
    text: str
    """What was said on the terminal."""
    seconds: float = 0.0
    """Of the CPU."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl."""
    races: list[str] = field(default_factory=list)
    synchronizations: list[dict[str, int]] = field(default_factory=list)
    """Of each step but the first one: how often the host waited for the device, by operator."""
    usage: dict[str, int] = field(default_factory=dict)
    """Of the first device and of pinned memory: live, peak, total, pinned, ... in bytes."""

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        return [line["loss"] for line in self.metrics]


def device_environment(devices: int = 1, **settings: Any) -> dict[str, str]:
    """`environment`; skips the test where the device cannot be built, but fails it in CI."""
    try:
        return environment(devices, **settings)
    except NoCompilerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def run_on_cuda(settings: Sequence[str], *, devices: int = 1, timeout: float = 300, **options: Any) -> Outcome:
    """One case in a process of its own; `options` are those of `Case`."""
    return run_all([Case(settings, **options)], devices=devices, timeout=timeout)[0]


def run_all(cases: Sequence[Case], *, devices: int = 1, timeout: float = 7200, **more: str) -> list[Outcome]:
    """All cases one after the other in one process, which saves the time of its start.

    Args:
        cases: what to run.
        devices: number of software GPUs.
        timeout: seconds for all of them.
        more: variables of the environment.
    """
    with TemporaryDirectory() as folder:
        asked, told = Path(folder) / "cases.json", Path(folder) / "outcomes.jsonl"
        asked.write_text(json.dumps([asdict(case) for case in cases]))
        told.touch()
        command = [sys.executable, "-m", "tests.software_cuda.worker", str(asked), str(told)]
        env = device_environment(devices, races=1) | {"OMP_NUM_THREADS": "1"} | more
        done = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = done.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            done.kill()
            said = f"{done.communicate()[0]}\nended after {timeout:g} s"
        outcomes = [Outcome(**json.loads(line)) for line in told.read_text().splitlines()]
    died = Outcome(done.returncode or -1, f"the process that ran the cases died, after:\n{said[-4000:]}")
    return outcomes + [died] * (len(cases) - len(outcomes))
