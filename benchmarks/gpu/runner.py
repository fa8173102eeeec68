"""Runs measurements one by one, each in a process of its own, so that none finds memory that another one has left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import ROOT, gpu_memory_used
from benchmarks.gpu.results import FAILED, MEASURED, UNFINISHED, Result, Results
from benchmarks.gpu.table import Measurement, simulated

LONGEST_TEXT = 1500
"""Characters of a log that are kept beside a failure."""
LEAST_SECONDS = 30
"""For a measurement of small models; and so long a call has just begun."""
END = 20
"""Seconds before the end at which a process is ended, to write what is known."""


@dataclass(frozen=True)
class Session:
    """One call of the program."""

    results: Results
    cache: Path
    """For weights, clips and logs."""
    minutes: float
    revision: str | None
    simulate: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """Of the processes that measure."""
    reference: Path | None = None
    """A checkout of the CogVideoX Factory."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        """Until this call has to end."""
        return self.started + 60 * self.minutes - time.monotonic()

    @property
    def marks(self) -> Result:
        """What each result has, besides its numbers."""
        return {"revision": self.revision, **({"simulated": True} if self.simulate else {})}


def measure_all(session: Session, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Measures in this order as long as there is time. Returns what is left."""
    for number, measurement in enumerate(measurements):
        if not _fits(session, measurement):
            return list(measurements[number:])
        print(f"[{number + 1}/{len(measurements)}] {measurement.label} ...", flush=True)
        result = measure(session, measurement)
        session.results.add(result)
        print(f"    {told(result)}", flush=True)
    return []


def _fits(session: Session, measurement: Measurement) -> bool:
    """Whether there is time for it. A call that has just begun tries it in any case."""
    if session.simulate:
        return session.seconds_left > LEAST_SECONDS
    has_just_begun = session.seconds_left > 60 * session.minutes - LEAST_SECONDS
    return has_just_begun or session.seconds_left > 60 * measurement.minutes + END


def measure(session: Session, measurement: Measurement) -> Result:
    """One measurement, whatever happens to it."""
    settings = simulated(measurement.settings) if session.simulate else measurement.settings
    known: Result = {
        "key": measurement.key,
        "piece": measurement.piece,
        "settings": measurement.settings,
        "factory": measurement.factory,
        **session.marks,
    }
    session.cache.mkdir(parents=True, exist_ok=True)
    file, log = session.cache / "measurement.json", session.cache / "measurement.log"
    asked = {
        "settings": settings,
        "validation": measurement.validation,
        "cache": str(session.cache),
        "metrics": str(session.cache / "metrics.jsonl"),
        "used_before_gib": 0.0 if session.simulate else gpu_memory_used(),
        "seconds": session.seconds_left - END,
        "reference": str(session.reference) if measurement.factory else None,
    }
    file.write_text(json.dumps(asked))
    started = time.monotonic()
    module = "benchmarks.gpu.factory" if measurement.factory else "benchmarks.gpu.worker"
    code = _run([sys.executable, "-m", module, str(file)], session, log)
    found = json.loads(file.read_text())
    kept = {key: value for key, value in found.items() if key not in asked}
    known |= {"seconds": round(time.monotonic() - started, 1), **kept}
    if code is None:
        return {"error": "there was no time left for it", **known, "status": UNFINISHED}
    if "status" not in known:
        known |= {"status": FAILED, "error": f"the process ended with {_meaning(code)}"}
    if known["status"] != MEASURED:
        known["log"] = log.read_text(errors="replace")[-LONGEST_TEXT:]
    return known


def told(result: Result) -> str:
    """A result in a line."""
    if result["status"] != MEASURED:
        return f"{result['status']}: {result.get('error', '')}"
    peak = max(phase["allocated"] for phase in result["memory"].values()) if result.get("memory") else 0.0
    mfu = f", MFU {100 * result['mfu']:.1f} %" if "mfu" in result else ""
    return f"{result['step_seconds']:.2f} s a step{mfu}, {peak:.2f} GiB allocated, in {result['seconds']:.0f} s"


def _run(command: list[str], session: Session, log: Path) -> int | None:
    with log.open("wb") as file:
        return run_process(command, session, stdout=file, stderr=subprocess.STDOUT)


def run_process(command: list[str], session: Session, **output: Any) -> int | None:
    """Runs a process of the project. Returns its exit code; None if it did not end in time, and was ended.

    Args:
        command: the program.
        session: the call.
        output: `stdout` and `stderr`.
    """
    environment = {**session.environment, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **output)
    try:
        return process.wait(timeout=max(session.seconds_left, 1))
    except subprocess.TimeoutExpired:
        return None
    finally:  # with the processes that it has started, also after Ctrl-C
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _meaning(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    hint = "; the host may have had no memory left" if code == -signal.SIGKILL else ""
    return f"signal {signal.Signals(-code).name}{hint}"
