"""Runs a training job in worker processes: several through torchrun, or one for each job of a sweep.

Workers are independent of Hydra: their job is a JSON file in the run folder. They exit with this process: the kernel
signals torchrun when its parent dies, and the workers when torchrun dies.
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
"""File for the started process's stderr: torchrun's report about its workers, or a job's warnings."""

ASK_TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Sent by Slurm or a user, and by submitit when a job's time is nearly up."""

LONGEST_BUILD = 600
"""Age in seconds after which a lock on compiling an operation (which takes about 100) is considered stale."""

LONGEST_MEETING = 1800
"""Seconds a machine waits for the first one, which may be reading its data, if distributed.timeout is not set."""


def run_workers(work: Work, folder: RunFolder, log: Path | None = None) -> None:
    """Runs a job in `distributed.processes` processes on this machine.

    Args:
        work: the job and its checkpoint.
        folder: the run.
        log: file for their terminal output.

    Raises:
        Stopped: the run was asked to stop and has saved its state.
        UserError: a process failed with a UserError.
        CrashError: a process failed with another error.
    """
    job = work.job
    logs = folder.logs / f"node-{job.distributed.node_rank}"
    # Before the workers start: torchrun would wait for minutes and then report a timeout without a name.
    _meet(job.distributed)
    write_job(logs, work)
    # A killed compilation leaves its lock; the next start would wait for it forever.
    _remove_stale_locks()
    command, started = _command(job, logs), time.monotonic()
    logger.info("starting %s", shlex.join(command))
    with gpus_of_its_own(job.sweep) as gpus, ExitStack() as files:
        # A fresh interpreter: a forked child would share Hydra's state and the libraries imported so far.
        process = subprocess.Popen(
            command,
            stdout=files.enter_context(log.open("w", encoding="utf-8")) if log else None,
            stderr=files.enter_context((logs / ERRORS).open("w", encoding="utf-8")),
            env=_environment(job) | gpus,
            start_new_session=True,  # Ctrl-C only reaches this process, which then stops the workers
            preexec_fn=_before_start,
        )
        with _passing_signals_on(process, alone=job.distributed.name == "single"):
            try:
                # Signals interrupt this wait only to run `ask`; the workers decide when to end.
                code = process.wait()
            except BaseException:
                _kill(process)
                process.wait()
                raise
    logger.info("exit code %d after %.1f s", code, time.monotonic() - started)
    _raise_failure(logs, code)


def _meet(distributed: Distributed) -> None:
    """With several machines: checks that this one can reach the first, and waits for it."""
    if distributed.nodes == 1:
        return
    assert distributed.rendezvous
    host, _, port = distributed.rendezvous.rpartition(":")
    setting = f"distributed.rendezvous={distributed.rendezvous}"
    if distributed.node_rank == 0:
        check_first(host, int(port), setting)
        text = f"Machine 0 of {distributed.nodes} at {distributed.rendezvous}; training begins when all have joined"
        console.print(text, soft_wrap=True)
    else:
        wait_for_first(host, int(port), setting, distributed.timeout or LONGEST_MEETING)


def _command(job: TrainJob, logs: Path) -> list[str]:
    """The command of a job's single worker, or of torchrun, which starts several."""
    distributed = job.distributed
    if distributed.name == "single":
        return [sys.executable, "-m", WORKER, str(logs)]
    text = f"Starting {distributed.processes} processes ({distributed.name}); logs in {logs}"
    console.print(text, soft_wrap=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", *_torchrun_flags(distributed)]
    return [*torchrun, f"--log-dir={logs}", f"--redirects={_redirects(distributed)}", "-m", WORKER, str(logs)]


def _raise_failure(logs: Path, code: int) -> None:
    """Raises the error of the process that failed first, if any."""
    failure = first_failure(logs)
    # Files rather than exit codes: torchrun replaces its workers' codes by its own.
    if failure and failure["stopped"]:
        raise Stopped(failure["message"])
    if failure and failure["user"]:
        raise UserError(failure["message"])
    if failure:
        raise CrashError(f"process {failure['rank']} failed:\n{failure['traceback']}")
    if code:
        # No failure file: the process was killed, or crashed in C code. What it printed last is all there is.
        tail = "\n".join((logs / ERRORS).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise CrashError(f"a process exited without an error message (exit code {code}); {logs} has its logs:\n{tail}")


def _remove_stale_locks() -> None:
    """Removes locks of processes killed while compiling a DeepSpeed operation, for which all others would wait."""
    default = Path.home() / ".cache" / "torch_extensions"
    for lock in Path(os.environ.get("TORCH_EXTENSIONS_DIR", default)).glob("**/lock"):
        with suppress(OSError):
            # By age, as the lock file does not say whose it is.
            if time.time() - lock.stat().st_mtime > LONGEST_BUILD:
                lock.unlink()
                logger.info("removed %s, which was left over", lock)


def _torchrun_flags(distributed: Distributed) -> list[str]:
    flags = [f"--nproc-per-node={distributed.processes}"]
    if distributed.nodes == 1:
        return [*flags, "--standalone"]  # picks a free port itself
    assert distributed.rendezvous
    host, _, port = distributed.rendezvous.partition(":")
    flags += [f"--nnodes={distributed.nodes}", f"--node-rank={distributed.node_rank}"]
    return [*flags, f"--master-addr={host}", f"--master-port={port}"]


def _redirects(distributed: Distributed) -> str:
    """The first process of all prints on the terminal, the others into files."""
    speaks = 0 if distributed.node_rank == 0 else None
    return ",".join(f"{local}:3" for local in range(distributed.processes) if local != speaks) or "0:0"


def _environment(job: TrainJob) -> dict[str, str]:
    # torchrun would set OMP_NUM_THREADS=1, with which everything on the host crawls.
    threads = max((os.cpu_count() or 1) // job.distributed.processes, 1)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # DeepSpeed needs ninja
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # hides c10d's connection attempts
    return {"OMP_NUM_THREADS": str(threads), **quiet, **os.environ, "PATH": path}


def _before_start() -> None:
    """Blocks SIGUSR1 until the worker, or torchrun's workers, can handle it (`StopRequest.listening`)."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


@contextmanager
def _passing_signals_on(process: subprocess.Popen, alone: bool) -> Iterator[None]:
    """Forwards `ASK_TO_STOP` signals to the workers, which save and exit. A second SIGTERM kills them.

    Args:
        process: the worker, or torchrun.
        alone: whether it is the worker itself.
    """
    stop_requested = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal stop_requested
        if stop_requested and number == signal.SIGTERM:
            _kill(process)
        stop_requested = True
        # To the workers themselves: torchrun does not pass SIGUSR1 on.
        for worker in [process.pid] if alone else _started_by(process.pid):
            _send(worker, signal.SIGUSR1)

    before = {number: signal.signal(number, ask) for number in ASK_TO_STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(process: subprocess.Popen) -> None:
    """Kills a process and those that it has started."""
    for pid in (process.pid, *_started_by(process.pid, recursive=True)):
        _send(pid, signal.SIGKILL)


def _started_by(pid: int, recursive: bool = False) -> list[int]:
    """The child processes of a process; `recursive`: all descendants."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive)]
    except psutil.NoSuchProcess:
        return []


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
