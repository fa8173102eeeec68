"""Runs a training job in processes of its own: several through torchrun, or one, as each job of a sweep has it.

The processes know nothing of Hydra: their job is a JSON file in the run's folder. Whatever ends this process ends them:
the kernel signals torchrun when its parent dies, and the workers when torchrun dies.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from cogvx_exp.config.schema import Distributed, TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import CrashError, UserError
from cogvx_exp.distributed.rendezvous import check_first, wait_for_first
from cogvx_exp.launch.workers.job_files import Work, first_failure, write_job
from cogvx_exp.launch.workers.processes import die_with_parent
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.sweep.gpus import gpus_of_its_own
from cogvx_exp.training.stopping import Stopped

logger = logging.getLogger(__name__)

WORKER = "cogvx_exp.launch.workers.train"

ERRORS = "stderr.log"
"""What the started process writes there: torchrun's account of its workers, or a job's own warnings."""

ASK_TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Of Slurm, of a user, and of submitit when the time of a job is nearly up."""

LONGEST_BUILD = 600
"""Seconds after which a lock on the compilation of an operation (which takes about 100) is left over."""

LONGEST_MEETING = 1800
"""Seconds that a machine waits for the first one, which may be reading its data, if distributed.timeout is not set."""


def run_workers(work: Work, folder: RunFolder, log: Path | None = None) -> None:
    """Runs a job in `distributed.processes` processes of this machine.

    Args:
        work: the job and what it goes on from.
        folder: the run.
        log: takes what they would say on the terminal.

    Raises:
        Stopped: the run was asked to stop and has saved its state.
        UserError: a process failed with one.
        CrashError: a process failed with another error.
    """
    job = work.job
    logs = folder.logs / f"node-{job.distributed.node_rank}"
    _meet(job.distributed)
    write_job(logs, work)
    _remove_stale_locks()
    command, started = _command(job, logs), time.monotonic()
    logger.info("starting %s", shlex.join(command))
    with gpus_of_its_own(job.sweep) as gpus, ExitStack() as files:
        process = subprocess.Popen(
            command,
            stdout=files.enter_context(log.open("w", encoding="utf-8")) if log else None,
            stderr=files.enter_context((logs / ERRORS).open("w", encoding="utf-8")),
            env=_environment(job) | gpus,
            start_new_session=True,
            preexec_fn=_before_start,
        )
        with _passing_signals_on(process, alone=job.distributed.name == "single"):
            try:
                code = process.wait()
            except BaseException:
                _kill(process)
                process.wait()
                raise
    logger.info("exit code %d after %.1f s", code, time.monotonic() - started)
    _raise_failure(logs, code)


def _meet(distributed: Distributed) -> None:
    """Of several machines: checks that this one can find the first, and waits for it."""
    if distributed.nodes == 1:
        return
    assert distributed.rendezvous
    host, _, port = distributed.rendezvous.rpartition(":")
    setting = f"distributed.rendezvous={distributed.rendezvous}"
    if distributed.node_rank == 0:
        check_first(host, int(port), setting)
        text = f"Machine 0 of {distributed.nodes} at {distributed.rendezvous}; training begins when all are there"
        console.print(text, soft_wrap=True)
    else:
        wait_for_first(host, int(port), setting, distributed.timeout or LONGEST_MEETING)


def _command(job: TrainJob, logs: Path) -> list[str]:
    """Starts the worker of a job that has one process, or torchrun, which starts several."""
    distributed = job.distributed
    if distributed.name == "single":
        return [sys.executable, "-m", WORKER, str(logs)]
    text = f"Starting {distributed.processes} processes ({distributed.name}); logs in {logs}"
    console.print(text, soft_wrap=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", *_torchrun_flags(distributed)]
    return [*torchrun, f"--log-dir={logs}", f"--redirects={_redirects(distributed)}", "-m", WORKER, str(logs)]


def _raise_failure(logs: Path, code: int) -> None:
    """Raises what the process that failed first has left, if one has."""
    failure = first_failure(logs)
    if failure and failure["stopped"]:
        raise Stopped(failure["message"])
    if failure and failure["user"]:
        raise UserError(failure["message"])
    if failure:
        raise CrashError(f"process {failure['rank']} failed:\n{failure['traceback']}")
    if code:
        tail = "\n".join((logs / ERRORS).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise CrashError(f"a process exited without an error message (exit code {code}); {logs} has its logs:\n{tail}")


def _remove_stale_locks() -> None:
    """A process that was killed while it compiled an operation of DeepSpeed leaves a lock that all others wait for."""
    default = Path.home() / ".cache" / "torch_extensions"
    for lock in Path(os.environ.get("TORCH_EXTENSIONS_DIR", default)).glob("**/lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > LONGEST_BUILD:
                lock.unlink()
                logger.info("removed %s, which was left over", lock)


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
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # c10d's attempts to connect
    return {"OMP_NUM_THREADS": str(threads), **quiet, **os.environ, "PATH": path}


def _before_start() -> None:
    """Lets SIGUSR1 wait until the worker, or those of torchrun, can take it (`StopRequest.listening`)."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


@contextmanager
def _passing_signals_on(process: subprocess.Popen, alone: bool) -> Iterator[None]:
    """Inside, signals of `ASK_TO_STOP` reach the workers, which save and end. A second SIGTERM ends them at once.

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
        for worker in [process.pid] if alone else _started_by(process.pid):
            _send(worker, signal.SIGUSR1)

    before = {number: signal.signal(number, ask) for number in ASK_TO_STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(process: subprocess.Popen) -> None:
    """Ends a process and those that it has started at once."""
    for pid in (process.pid, *_started_by(process.pid, recursive=True)):
        _send(pid, signal.SIGKILL)


def _started_by(pid: int, recursive: bool = False) -> list[int]:
    """Processes that a process has started; `recursive`: and those that they have started."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive)]
    except psutil.NoSuchProcess:
        return []


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
