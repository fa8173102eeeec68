"""Shares a machine's GPUs between concurrent jobs."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from cogvx_exp.config.schema import Sweep
from cogvx_exp.console.progress import console

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def gpus_of_its_own(sweep: Sweep) -> Iterator[dict[str, str]]:
    """Waits for `sweep.gpus_per_job` free GPUs of `sweep.gpus`; yields the environment for the job.

    GPUs are reserved by file locks, which the kernel releases even if a job is killed. All sweeps of a user on a
    machine share the files.
    """
    if not sweep.gpus:
        yield {}
        return
    # On the machine and not in the outputs, which machines may share.
    folder = Path(tempfile.gettempdir()) / f"cogvx-exp-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        logger.info("waiting for %d of GPUs %s (locks in %s)", sweep.gpus_per_job, sweep.gpus, folder)
        while not (taken := _take(folder, sweep, held)):
            time.sleep(SECONDS_BETWEEN_TRIES)
        console.print(f"On GPU {','.join(map(str, taken))}")
        # PCI_BUS_ID is the order of nvidia-smi; CUDA's default order is by speed.
        yield {"CUDA_VISIBLE_DEVICES": ",".join(map(str, taken)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _take(folder: Path, sweep: Sweep, held: ExitStack) -> list[int]:
    """Reserves all GPUs that a job needs, or none."""
    assert sweep.gpus
    taken: list[int] = []
    with ExitStack() as tried:
        for gpu in sweep.gpus:
            file = tried.enter_context((folder / str(gpu)).open("w"))
            if len(taken) < sweep.gpus_per_job and _lock(file):
                taken.append(gpu)
        # All or none: two jobs that each hold one of two GPUs would wait for each other.
        if len(taken) < sweep.gpus_per_job:
            return []
        held.push(tried.pop_all())
    return taken


def _lock(file: IO[str]) -> bool:
    try:
        # The file is never removed: a lock on a removed file excludes nobody.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
