"""What is said when a disk fills while a run works."""

from contextlib import AbstractContextManager

from cogvx_exp.core.disk import disk_errors_explained
from cogvx_exp.runs.checkpoint_folder import newest_checkpoint
from cogvx_exp.runs.run_folder import RunFolder


def disk_trouble(folder: RunFolder) -> AbstractContextManager[None]:
    """Inside, a run works; a UserError names the path that cannot be written, and what there is to go on from."""

    def explain(error: OSError) -> str:
        kept = newest_checkpoint(folder.path)[0]
        go_on = f"resume=auto goes on from {kept.path}" if kept else "There is no checkpoint to go on from"
        where = error.filename or folder.path
        return f"{where}: {error.strerror}; make room there, or name another run_dir or cache_dir. {go_on}"

    return disk_errors_explained(explain)
