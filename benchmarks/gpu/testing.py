"""The piece `tests`: pytest on the GPU, with a result for each test as soon as it is known.

This module is also the pytest plugin that writes them (`-p benchmarks.gpu.testing`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import ROOT, describe_machine
from benchmarks.gpu.results import FAILED, Result, Results
from benchmarks.gpu.runner import END, LONGEST_TEXT, Session
from benchmarks.gpu.table import TESTS

FILES = tuple(f"tests/integration/test_{name}.py" for name in ("gpu", "gpu_kernels", "gpu_captions"))
ASKED = "COGVX_GPU_TESTS"
"""Variable of the environment with what the plugin has to know, as JSON."""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
BROKEN = ("CUDA error", "an illegal memory access", "device-side assert")
"""What is said when a process cannot use its GPU any more."""


def run_tests(session: Session, *, again: bool = False, only: str = "", jobs: int = 1) -> list[str]:
    """Runs the tests that have no result yet, as long as there is time. Returns what is left.

    A test after which the GPU cannot be used, or that ends the process, fails, and the others go on in a new one.

    Args:
        session: the call.
        again: whether to run all of them.
        only: an expression for pytest's `-k`.
        jobs: how many processes share the tests.
    """
    done = set() if again else session.results.done()
    left = [name for name in _collect(session, only) if name not in done]
    with ThreadPoolExecutor(jobs) as threads:
        shares = threads.map(partial(_run_share, session), (left[number::jobs] for number in range(jobs)))
        return [name for share in shares for name in share]


def _run_share(session: Session, left: list[str]) -> list[str]:
    """Runs some tests, in as many processes as it takes. Returns what is left."""
    while left and session.seconds_left > END:
        with tempfile.TemporaryDirectory() as folder:
            running, before = Path(folder) / "running", session.results.by_key()
            _pytest(session, left, running)
            died = running.read_text() if running.exists() else ""
        if died and session.seconds_left > END:
            ended = {"status": FAILED, "error": "the process died", **session.marks}
            session.results.add({"key": died, "piece": TESTS, **ended})
        new = {name for name, result in session.results.by_key().items() if result != before.get(name)}
        if new.isdisjoint(left):
            break
        left = [name for name in left if name not in new]
    return left


def _collect(session: Session, only: str) -> list[str]:
    """Names of all tests."""
    command = [*PYTEST, "--collect-only", "-q", "--override-ini=addopts=", *(["-k", only] if only else [])]
    environment = dict(session.environment)
    done = subprocess.run([*command, *FILES], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    if not names:
        print(f"No tests: {done.stdout[-LONGEST_TEXT:]}{done.stderr[-LONGEST_TEXT:]}")
    return names


def _pytest(session: Session, names: list[str], running: Path) -> None:
    """Runs tests until they are done, the time is over, or the GPU cannot be used any more."""
    asked = {"out": str(session.results.file.parent), "running": str(running), **session.marks}
    asked["until"] = time.time() + session.seconds_left - END
    own = {ASKED: json.dumps(asked), "PYTHONUNBUFFERED": "1"}
    environment = {"OMP_NUM_THREADS": "4", **session.environment, **own}  # more threads slow tiny models down
    command = [*PYTEST, "-p", "benchmarks.gpu.testing", "--override-ini=addopts=", "-q", *names]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        process.wait(timeout=max(session.seconds_left, 1))
    except subprocess.TimeoutExpired:
        print("There was no time left for the test that ran.")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Recorder:
    """Writes the result of each test.

    Args:
        asked: where to, until when, and the marks of each result.
    """

    def __init__(self, asked: dict[str, Any]):
        self._results, self._until = Results(Path(asked.pop("out"))), asked.pop("until")
        self._running, self._marks = Path(asked.pop("running")), asked
        self._machine = describe_machine()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Notes which test runs, in case that it ends the process."""
        self._running.write_text(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Writes how a test went: its call, or what went wrong before and after it."""
        if report.when != "call" and report.passed:
            return
        result: Result = {"key": report.nodeid, "piece": TESTS, "status": report.outcome, **self._marks}
        result |= {"seconds": round(report.duration, 2), "machine": self._machine}
        if report.skipped:
            result["error"] = report.longrepr[-1].removeprefix("Skipped: ")
        elif report.failed:
            result["error"] = report.longreprtext.strip().rpartition("\n")[-1]
            result["log"] = report.longreprtext[-LONGEST_TEXT:]
        self._results.add(result)

    def pytest_runtest_logfinish(self) -> None:
        """The test that ran has a result."""
        self._running.unlink(missing_ok=True)

    def pytest_runtest_teardown(self, item: Any) -> None:
        """Ends the session when there is no time for another test, or the GPU is of no use to it."""
        failed = self._results.by_key().get(item.nodeid, {})
        if time.time() > self._until:
            item.session.shouldstop = "the time is over"
        elif any(words in failed.get("log", "") for words in BROKEN):
            item.session.shouldstop = "the GPU needs a new process"


def pytest_configure(config: Any) -> None:
    """Registers the plugin where it was asked for."""
    if ASKED in os.environ:
        config.pluginmanager.register(Recorder(json.loads(os.environ[ASKED])))
