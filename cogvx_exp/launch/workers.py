"""Runs a training job in processes of its own: several through torchrun, or one, as each job of a sweep has it.

The processes know nothing of Hydra: their job is a JSON file in the run's folder. Whatever ends this process ends them:
torchrun is told by the kernel when its parent dies, and each of them when torchrun dies.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from cogvx_exp.config.schema import Distributed, TrainJob
from cogvx_exp.errors import CrashError, UserError
from cogvx_exp.files import read_json, write_json
from cogvx_exp.launch.processes import children, descendants, die_with_parent
from cogvx_exp.sweep.gpus import gpus_of_its_own
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.run_folder import RunFolder
from cogvx_exp.training.stopping import Stopped

WORKER = "cogvx_exp.launch.train_worker"

ERRORS = "stderr.log"
"""What the started process writes there: torchrun's account of its workers, or a job's own warnings."""

LONGEST_BUILD = 600
"""Seconds after which a lock on the compilation of an operation (which takes about 100) is left over."""


def run_workers(job: TrainJob, folder: RunFolder, checkpoint: Path | None, log: Path | None = None) -> None:
    """Runs the job in `distributed.processes` processes of this machine.

    Args:
        job: the checked configuration.
        folder: the run.
        checkpoint: what to go on from.
        log: takes what they would say on the terminal.

    Raises:
        Stopped: the run was asked to stop and has saved its state.
        UserError: a process failed with one.
        CrashError: a process failed with another error.
    """
    logs = folder.logs / f"node-{job.distributed.node_rank}"
    logs.mkdir(parents=True, exist_ok=True)
    for left in logs.glob("failure-*.json"):
        left.unlink()
    write_json(logs / "job.json", {"job": job.model_dump(mode="json"), "checkpoint": checkpoint and str(checkpoint)})
    alone = job.distributed.name == "single"
    command = [sys.executable, "-m"]
    if not alone:
        command += ["torch.distributed.run", *_torchrun_flags(job.distributed)]
        command += [f"--log-dir={logs}", f"--redirects={_redirects(job.distributed)}", "-m"]
        console.print(
            f"Starting {job.distributed.processes} processes ({job.distributed.name}); logs in {logs}", soft_wrap=True
        )
    _remove_stale_locks()
    with gpus_of_its_own(job.sweep) as gpus, ExitStack() as files:
        says = files.enter_context(log.open("w")) if log else None
        process = subprocess.Popen(
            [*command, WORKER, str(logs)],
            stdout=says,
            stderr=files.enter_context((logs / ERRORS).open("w")),
            env=_environment(job) | gpus,
            start_new_session=True,
            preexec_fn=_before_torchrun,
        )
        with _passing_signals_on(process, alone):
            try:
                code = process.wait()
            except BaseException:
                _kill(process)
                raise
    failure = _first_failure(logs)
    if failure and failure["stopped"]:
        raise Stopped(failure["message"])
    if failure and failure["user"]:
        raise UserError(failure["message"])
    if failure:
        raise CrashError(f"process {failure['rank']} failed:\n{failure['traceback']}")
    if code:
        tail = "\n".join((logs / ERRORS).read_text().splitlines()[-15:])
        raise CrashError(f"a process ended without a word (exit code {code}); {logs} has its logs:\n{tail}")


def _remove_stale_locks() -> None:
    """A process that was killed while it compiled an operation of DeepSpeed leaves a lock that all others wait for."""
    default = Path.home() / ".cache" / "torch_extensions"
    for lock in Path(os.environ.get("TORCH_EXTENSIONS_DIR", default)).glob("**/lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > LONGEST_BUILD:
                lock.unlink()


def _torchrun_flags(distributed: Distributed) -> list[str]:
    flags = [f"--nproc-per-node={distributed.processes}"]
    if distributed.nodes == 1:
        return [*flags, "--standalone"]  # a free port of its own
    assert distributed.rendezvous
    host, _, port = distributed.rendezvous.partition(":")
    flags += [f"--nnodes={distributed.nodes}", f"--node-rank={distributed.node_rank}"]
    return [*flags, f"--master-addr={host}", f"--master-port={port}"]


def _redirects(distributed: Distributed) -> str:
    """The first process of all speaks on the terminal, the others into files."""
    speaks = 0 if distributed.node_rank == 0 else None
    return ",".join(f"{local}:3" for local in range(distributed.processes) if local != speaks) or "0:0"


def _environment(job: TrainJob) -> dict[str, str]:
    threads = max((os.cpu_count() or 1) // job.distributed.processes, 1)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # ninja, for DeepSpeed
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "PATH": path}


def _before_torchrun() -> None:
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # for the workers only, which take it up again


@contextmanager
def _passing_signals_on(process: subprocess.Popen, alone: bool) -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 reach the workers, which save and end. A second one ends them at once.

    Args:
        process: the worker, or torchrun.
        alone: whether it is the worker itself.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGTERM:
            _kill(process)
        asked = True
        for worker in [process.pid] if alone else children(process.pid):
            _send(worker, signal.SIGUSR1)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(process: subprocess.Popen) -> None:
    """Ends a process and those that it has started at once."""
    for pid in (process.pid, *descendants(process.pid)):
        _send(pid, signal.SIGKILL)
    process.wait()


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _first_failure(logs: Path) -> dict[str, Any] | None:
    """What the process that failed first has left."""
    failures = [read_json(path) for path in logs.glob("failure-*.json")]
    return min(failures, key=lambda failure: failure["time"], default=None)


def leave_failure(logs: Path, rank: int, error: BaseException, traceback: str = "") -> None:
    """Called in a worker: says what ended it."""
    about = {
        "rank": rank,
        "time": time.time(),
        "user": isinstance(error, UserError),
        "stopped": isinstance(error, Stopped),
        "message": getattr(error, "message", str(error)),
        "traceback": traceback,
    }
    write_json(logs / f"failure-{rank}.json", about)


def read_work(logs: Path) -> tuple[TrainJob, Path | None]:
    """The job that `run_workers` has left, and the checkpoint to go on from."""
    work = json.loads((logs / "job.json").read_text(encoding="utf-8"))
    checkpoint = work["checkpoint"]
    return TrainJob.model_validate(work["job"]), Path(checkpoint) if checkpoint else None
