"""What is said when a disk fills while a run works."""

from collections.abc import Iterator
from contextlib import contextmanager

from cogvx_exp.disk import disk_error
from cogvx_exp.errors import UserError
from cogvx_exp.tracking.run_folder import RunFolder
from cogvx_exp.training.checkpoint_files import newest_checkpoint


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
        kept = newest_checkpoint(folder.path)[0]
        go_on = f"resume=auto goes on from {kept.path}" if kept else "There is no checkpoint to go on from"
        raise UserError(
            f"{found.filename or folder.path}: {found.strerror}; make room there, or name another run_dir or "
            f"cache_dir. {go_on}"
        ) from None
