"""Runs the entry points on software GPUs and hands back what came out. The test process never sees the device."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.software_cuda import ROOT, environment
from tests.software_cuda.build import NoCompilerError

CASE_TIMEOUT = 600
"""Seconds without an outcome, after which a process is ended. A case takes two where nothing else runs."""
CASES_EACH = 24
"""Cases from which a second process is worth its start."""


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


def cache_in(folder: Path) -> Path:
    """The cache of a test's runs: its own, so that the device encodes, or one that mutants share, which saves that."""
    return Path(os.environ.get("SOFTWARE_CUDA_CACHE", folder / "cache"))


def run_on_cuda(settings: Sequence[str], *, devices: int = 1, **options: Any) -> Outcome:
    """One case in a process of its own; `options` are those of `Case`."""
    return run_all([Case(settings, **options)], devices=devices)[0]


def run_selected(request: pytest.FixtureRequest, cases_of: Callable[[str], list[Case]]) -> dict[str, list[Outcome]]:
    """The outcomes of all tests of a module that are selected and have a parameter `name`, by that name.

    Args:
        request: of a fixture of the module.
        cases_of: the cases of a name; they may use what the ones before have left.
    """
    own = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    names = list(dict.fromkeys(item.callspec.params["name"] for item in own if "name" in item.callspec.params))
    groups = [cases_of(name) for name in names]
    share = max(1, min(len(names) // CASES_EACH + 1, len(os.sched_getaffinity(0)) // 2))
    parts = [list(range(first, len(names), share)) for first in range(share)]

    def run_part(part: list[int]) -> list[Outcome]:
        return run_all([case for index in part for case in groups[index]])

    with ThreadPoolExecutor(share) as threads:
        outcomes = dict(zip(range(share), threads.map(run_part, parts), strict=True))
    found: dict[str, list[Outcome]] = {}
    for number, part in enumerate(parts):
        rest = iter(outcomes[number])
        found |= {names[index]: [next(rest) for _ in groups[index]] for index in part}
    return found


def run_all(cases: Sequence[Case], *, devices: int = 1, **more: str) -> list[Outcome]:
    """All cases one after the other in one process, which saves the time of its start.

    If that process dies, the case that it was at has failed, and another one goes on with the next. In a process that
    has the device (`mutants.py`), the cases run there.

    Args:
        cases: what to run.
        devices: number of software GPUs.
        more: variables of the environment.
    """
    if os.environ.get("SOFTWARE_CUDA"):
        from tests.software_cuda.worker import run

        return [Outcome(**run(asdict(case))) for case in cases]
    env = device_environment(devices, races=1) | {"OMP_NUM_THREADS": "1"} | more
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        outcomes += _run_until_death(cases[len(outcomes) :], env)
    return outcomes


def _run_until_death(cases: Sequence[Case], env: dict[str, str]) -> list[Outcome]:
    """The outcomes of the first cases: of all of them unless the process dies, else up to the one it died of."""
    with TemporaryDirectory() as folder:
        asked, told, said = Path(folder) / "cases.json", Path(folder) / "outcomes.jsonl", Path(folder) / "said.txt"
        asked.write_text(json.dumps([asdict(case) for case in cases]))
        told.touch()
        command = [sys.executable, "-m", "tests.software_cuda", str(asked), str(told)]
        with said.open("w") as output:
            process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            _wait_while_it_goes_on(process, told)
        outcomes = [Outcome(**json.loads(line)) for line in told.read_text().splitlines()]
        if len(outcomes) < len(cases):
            text = f"the process that ran the cases died ({process.returncode}), after:\n{said.read_text()[-4000:]}"
            outcomes.append(Outcome(process.returncode or -1, text))
        return outcomes


def _wait_while_it_goes_on(process: subprocess.Popen[bytes], told: Path) -> None:
    """Waits for the end of a process, which is killed once it has given no outcome for `CASE_TIMEOUT`."""
    size = -1
    while size < told.stat().st_size:
        size = told.stat().st_size
        try:
            process.wait(CASE_TIMEOUT)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()
