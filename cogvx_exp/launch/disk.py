"""What is said when a disk is full or cannot be written."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from cogvx_exp.errors import UserError
from cogvx_exp.tracking.run_folder import FULL, RunFolder
from cogvx_exp.training.checkpoint_files import newest_checkpoint

DISK_ERRORS = (*FULL, errno.EROFS, errno.EACCES)
"""A full disk, a quota, a limit of file sizes, a disk or a folder that cannot be written."""


def disk_error(error: BaseException) -> OSError | None:
    """The error of the disk that an error is, or that a library has made it of."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return OSError(errno.ENOSPC, str(error))
    cause = error.__cause__ or error.__context__
    return disk_error(cause) if cause and not isinstance(error, UserError) else None


@contextmanager
def disk_trouble(folder: RunFolder) -> Iterator[None]:
    """Inside, a run works.

    Raises:
        UserError: instead of an error of the disk; names the path and what there is to go on from.
    """
    try:
        yield
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        where = found.filename or folder.path
        kept = newest_checkpoint(folder.path)[0]
        go_on = f"resume=auto goes on from {kept.path}" if kept else "there was no checkpoint yet"
        raise UserError(
            f"{where}: {found.strerror}; make room there, or name another run_dir or cache_dir. {go_on}"
        ) from None
