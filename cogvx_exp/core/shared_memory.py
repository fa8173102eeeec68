"""Room in /dev/shm, where the locks of a process's children are. Containers are often given little of it.

Tensors are sent through pipes (`Batch.__reduce__`) and take none.
"""

import multiprocessing
import os
from pathlib import Path

SHARED = Path("/dev/shm")
OF_QUEUE = 3
"""Semaphores of one queue."""
OF_ALL = 9
"""Semaphores that the readers share: a queue for their results, an event for their end; and one to spare."""
PAGE = 4096
"""Bytes that a semaphore takes."""


def has_room(readers: int) -> bool:
    """Whether there is room for the locks of so many reading processes."""
    try:
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
        f"{size}, too little for the locks of processes (docker run --shm-size=64m; mount -o remount,size=64m {SHARED})"
    )
