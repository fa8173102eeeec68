"""Starts several processes that share a job without communicating."""

import ctypes
import os
import signal
import subprocess
import sys

from cogvx_exp.config.schema import Distributed
from cogvx_exp.core.errors import UserError

PR_SET_PDEATHSIG = 1


def run_processes(module: str, job: str, distributed: Distributed) -> None:
    """Starts `distributed.processes` processes of a module, gives each the job and waits for all.

    They exit when this process does, for whatever reason.

    Raises:
        UserError: a process failed; it has printed its error.
    """
    world_size = distributed.nodes * distributed.processes
    children = []
    for local in range(distributed.processes):
        rank = distributed.node_rank * distributed.processes + local
        place = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": world_size}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        command = [sys.executable, "-m", module]
        # The job goes through standard input: there is no run folder to leave a file in.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, preexec_fn=die_with_parent)
        assert child.stdin
        child.stdin.write(job.encode())
        # The worker reads to the end of the file before it starts.
        child.stdin.close()
        children.append(child)
    try:
        # One after the other: they do not communicate, so a failed one does not hold up the rest.
        codes = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
        raise
    failed = [rank for rank, code in enumerate(codes) if code]
    if failed:
        raise UserError(
            f"process {', '.join(map(str, failed))} of {len(codes)} failed; see above. Run it again to continue"
        )


def die_with_parent() -> None:
    """Makes the kernel send SIGTERM to this new process when its parent exits, for whatever reason."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
