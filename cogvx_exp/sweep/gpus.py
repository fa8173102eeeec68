"""Shares the GPUs of a machine between the jobs that run at the same time."""

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
    """Waits for `sweep.gpus_per_job` GPUs of `sweep.gpus` that no other job has; yields the environment to run in.

    A GPU is taken by a lock on a file, so one that a killed job had is free again. All sweeps of a user on the machine
    share the files.
    """
    if not sweep.gpus:
        yield {}
        return
    folder = Path(tempfile.gettempdir()) / f"cogvx-exp-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        logger.info("waiting for %d of GPUs %s (locks in %s)", sweep.gpus_per_job, sweep.gpus, folder)
        while not (taken := _take(folder, sweep, held)):
            time.sleep(SECONDS_BETWEEN_TRIES)
        console.print(f"On GPU {','.join(map(str, taken))}")
        yield {"CUDA_VISIBLE_DEVICES": ",".join(map(str, taken)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _take(folder: Path, sweep: Sweep, held: ExitStack) -> list[int]:
    """All the GPUs that a job needs, or none."""
    assert sweep.gpus
    taken: list[int] = []
    with ExitStack() as tried:
        for gpu in sweep.gpus:
            file = tried.enter_context((folder / str(gpu)).open("w"))
            if len(taken) < sweep.gpus_per_job and _lock(file):
                taken.append(gpu)
        if len(taken) < sweep.gpus_per_job:
            return []
        held.push(tried.pop_all())
    return taken


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
