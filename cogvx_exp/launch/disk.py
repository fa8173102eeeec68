"""The message for a disk that fills during a run."""

from contextlib import AbstractContextManager

from cogvx_exp.core.disk import disk_errors_explained
from cogvx_exp.runs.checkpoint_folder import newest_checkpoint
from cogvx_exp.runs.run_folder import RunFolder


def disk_trouble(folder: RunFolder) -> AbstractContextManager[None]:
    """Turns disk errors during a run into a UserError that names the path and the checkpoint to continue from."""

    def explain(error: OSError) -> str:
        kept = newest_checkpoint(folder.path)[0]
        go_on = f"resume=auto continues from {kept.path}" if kept else "There is no checkpoint to resume from"
        where = error.filename or folder.path
        return f"{where}: {error.strerror}; make room there, or choose another run_dir or cache_dir. {go_on}"

    return disk_errors_explained(explain)
