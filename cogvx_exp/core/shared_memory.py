"""Free space in /dev/shm, which holds the semaphores of worker processes. Containers often have little of it.

Tensors are sent through pipes (`Batch.__reduce__`) and need none.
"""

import multiprocessing
import os
from pathlib import Path

SHARED = Path("/dev/shm")
OF_QUEUE = 3
"""Semaphores per queue."""
OF_ALL = 9
"""Semaphores shared by all workers: the result queue, the shutdown event, and one spare."""
PAGE = 4096
"""Bytes per semaphore."""


def has_room(readers: int) -> bool:
    """Whether the semaphores of this many workers fit."""
    try:
        # Also tries one: /dev/shm may be mounted with room, but without permission.
        multiprocessing.Semaphore()
        free = os.statvfs(SHARED)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize >= (OF_ALL + readers * OF_QUEUE) * PAGE


def no_room() -> str:
    """What is wrong and how to fix it."""
    try:
        space = os.statvfs(SHARED)
        size = f"{SHARED} has {space.f_bavail * space.f_frsize >> 10} KiB free"
    except OSError as error:
        size = f"{SHARED} cannot be used ({error.strerror})"
    return (
        f"{size}, too little for the semaphores of worker processes "
        f"(docker run --shm-size=64m; mount -o remount,size=64m {SHARED})"
    )
