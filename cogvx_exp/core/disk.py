"""Full and unwritable disks, as reported by different libraries. Does not import torch."""

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
"""Disk full, quota exceeded, file size limit."""
DISK_ERRORS = (*FULL, errno.EROFS, errno.EACCES)
"""The same, and disks or folders that are not writable."""
PLACE_ERRORS = (*DISK_ERRORS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""The same, and names that are too long or taken: fixed by choosing another path."""


def disk_error(error: BaseException) -> OSError | None:
    """The disk error behind an exception, also where a library wraps it in its own class."""
    if isinstance(error, OSError):
        return error if error.errno in DISK_ERRORS else None
    # Rust's text for an error of the system; safetensors has no attribute with the number.
    if isinstance(error, SafetensorError) and (number := re.search(r"os error (\d+)", str(error))):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    # sqlite3 does not set errno either; its text is "database or disk is full".
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def try_disk(folder: Path) -> None:
    """Writes some bytes into a folder, to find out why another program could not.

    Raises:
        OSError: the folder is not writable.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        # More than file systems store inside an inode, which works on a full disk.
        file.write(bytes(1 << 16))
        file.flush()
        os.fsync(file.fileno())  # some file systems only report a full disk here


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turns library errors about a full disk while writing `path` into OSError.

    Raises:
        OSError: for every disk error, whichever library reports it.
    """
    try:
        yield
    except SafetensorError as error:
        cause = disk_error(error)
        raise OSError(cause.errno, cause.strerror, str(path)) if cause else OSError(str(error)) from None


@contextmanager
def disk_errors_explained(explain: Callable[[OSError], str]) -> Iterator[None]:
    """Turns disk errors inside the block into a UserError.

    Args:
        explain: returns the message for a disk error.

    Raises:
        UserError: instead of a disk error, whichever library reports it.
    """
    try:
        yield
    except Exception as error:
        cause = disk_error(error)
        if cause is None:
            raise
        # Without the chain: a traceback of the library would tell the reader nothing more.
        raise UserError(explain(cause)) from None


def cache_trouble(cache_dir: Path) -> AbstractContextManager[None]:
    """Turns disk errors while the cache is filled into a UserError that names the path."""
    return disk_errors_explained(
        lambda error: (
            f"{error.filename or cache_dir}: {error.strerror}; free some space, or set cache_dir to a folder on "
            "another disk. Encoded clips are kept: run the same command again to continue"
        )
    )


def disk_issue(error: OSError) -> UserError | None:
    """A UserError for a system error about a file's path, if it is one."""
    if error.errno not in PLACE_ERRORS or error.filename is None:
        return None
    name = str(error.filename)
    shown = name if len(name) <= 160 else f"{name[:70]}...{name[-70:]}"
    limit = " (a name may have 255 bytes)" if error.errno == errno.ENAMETOOLONG else ""
    return UserError(f"{shown}: {error.strerror}{limit}; choose another path (run_dir, cache_dir) or working directory")
