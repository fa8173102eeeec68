"""Full disks and disks that cannot be written, as all libraries report them. Does not import torch."""

import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from safetensors import SafetensorError

from cogvx_exp.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, a limit of file sizes."""
DISK_ERRORS = (*FULL, errno.EROFS, errno.EACCES)
"""And a disk or a folder that cannot be written."""
PLACE_ERRORS = (*DISK_ERRORS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""And names that are too long or taken: another place or name helps."""


def disk_error(error: BaseException) -> OSError | None:
    """The error of the disk that an error is, or that a library has made it of."""
    if isinstance(error, OSError):
        return error if error.errno in DISK_ERRORS else None
    if isinstance(error, SafetensorError) and (number := re.search(r"os error (\d+)", str(error))):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def try_disk(folder: Path) -> None:
    """Writes a little into a folder: tells why another program could not.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 16))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Inside, files are written at `path`.

    Raises:
        OSError: also where a library reports a full disk as an error of its own.
    """
    try:
        yield
    except SafetensorError as error:
        found = disk_error(error)
        raise OSError(found.errno, found.strerror, str(path)) if found else OSError(str(error)) from None


@contextmanager
def disk_errors_explained(explain: Callable[[OSError], str]) -> Iterator[None]:
    """Inside, files are written.

    Args:
        explain: the message for an error of the disk.

    Raises:
        UserError: instead of an error of the disk, whichever library reports it.
    """
    try:
        yield
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        raise UserError(explain(found)) from None


def cache_trouble(cache_dir: Path) -> AbstractContextManager[None]:
    """Inside, the cache is filled; a UserError names the path that cannot be written, and what to do."""
    return disk_errors_explained(
        lambda error: (
            f"{error.filename or cache_dir}: {error.strerror}; make room there, or set cache_dir to a folder on "
            "another disk. What is encoded stays: the same command goes on from there"
        )
    )


def disk_fault(error: OSError) -> UserError | None:
    """The user's error that an error of the system is, if it is one: names the file."""
    if error.errno not in PLACE_ERRORS or error.filename is None:
        return None
    name = str(error.filename)
    shown = name if len(name) <= 160 else f"{name[:70]}...{name[-70:]}"
    limit = " (a name may have 255 bytes)" if error.errno == errno.ENAMETOOLONG else ""
    return UserError(
        f"{shown}: {error.strerror}{limit}; name another place (run_dir, cache_dir) or another folder to work in"
    )
