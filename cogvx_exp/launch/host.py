"""Checks a run's host memory against that of the machine."""

import logging
from pathlib import Path

import psutil

from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError

logger = logging.getLogger(__name__)

GIB = 1 << 30

PROCESS_GIB = 2.0
"""Host memory per process for Python, the libraries with their CUDA kernels, and batches."""

SMALLER = {
    "streamed blocks": "memory.stream_blocks=false",
    "activations": "memory.activations=checkpoint",
    "optimizer states": "optim=adamw8bit",
    "copies of weights and gradients": "optim=adamw8bit",
    "weights while decoding": "validation.offload=false",
}
"""By kind of host memory: the setting that avoids it."""


def check_host(kinds: dict[str, float], processes: int) -> None:
    """Checks that a run's host memory fits; prints a note if other programs use too much of it.

    Args:
        kinds: GiB per process.
        processes: number of processes on this machine.

    Raises:
        UserError: it exceeds the machine's memory. Pinned memory cannot be swapped, so the kernel would kill the run.
    """
    limit, available = host_limit() / GIB, psutil.virtual_memory().available / GIB
    kept = sum(kinds.values())
    needed = processes * (kept + PROCESS_GIB)
    prefix = f"{processes} processes, each " if processes > 1 else ""
    parts = ", ".join(f"{kind} {size:.1f}" for kind, size in kinds.items() if size >= 0.05)
    text = f"{prefix}{kept:.1f} GiB ({parts}) and {PROCESS_GIB:g} per process"
    logger.info("host memory, GiB: needs %.1f, free %.1f, limit %.1f", needed, available, limit)
    if needed > limit:
        smaller = " ".join(dict.fromkeys(SMALLER[kind] for kind, size in kinds.items() if size >= 0.05))
        raise UserError(
            f"this run would need host memory: {text}, which exceeds the {limit:.1f} GiB of this machine.\n"
            f"{smaller} would need less (but more on the GPU); memory.preflight=false skips this check."
        )
    # A note and not an error: other programs may end before the memory is needed.
    if kept and needed > available:
        note = f"Note: this run needs host memory: {text}; {available:.1f} of {limit:.1f} GiB are currently free"
        console.warn(note)


def host_limit(files: Path = Path("/")) -> int:
    """Memory limit of this process in bytes: the machine's memory, or the limit of its cgroup (container, Slurm job).

    Args:
        files: the root of the file system.
    """
    limits = [psutil.virtual_memory().total]
    for name in _limit_files(files):
        try:
            limits.append(int((files / name).read_text()))
        except (OSError, ValueError):  # missing file, or the value `max`
            continue
    return min(limits)


def _limit_files(files: Path) -> list[str]:
    """Files with the memory limits of this process's cgroups; in version 2, all enclosing cgroups count."""
    base = "sys/fs/cgroup"
    try:
        # A Slurm job's limit is several groups above its process; containers usually mount theirs at the top.
        lines = (files / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = [f"{base}/memory.max", f"{base}/memory/memory.limit_in_bytes"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # The smallest limit on the way up applies.
        for folder in (Path(path), *Path(path).parents):
            if not controllers:
                paths.append(f"{base}{folder}/memory.max")
            elif controllers == "memory":
                paths.append(f"{base}/memory{folder}/memory.limit_in_bytes")
    return paths
