"""How much memory the host has, and whether a run's share of it fits."""

import logging
from pathlib import Path

import psutil

from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError

logger = logging.getLogger(__name__)

GIB = 1 << 30

PROCESS_GIB = 2.0
"""Of host memory, for each process: Python, the libraries with their CUDA kernels, and batches of data."""

SMALLER = {
    "streamed blocks": "memory.stream_blocks=false",
    "activations": "memory.activations=checkpoint",
    "optimizer states": "optim=adamw8bit",
    "copies of weights and gradients": "optim=adamw8bit",
    "weights while decoding": "validation.offload=false",
}
"""By kind of what is kept in host memory: the setting without which it is not there."""


def check_host(kinds: dict[str, float], processes: int) -> None:
    """Makes sure that what a run keeps in host memory fits; says so if other programs have to make room for it.

    Args:
        kinds: GiB of one process.
        processes: how many there are on this machine.

    Raises:
        UserError: it is more than the machine has. Pinned memory cannot be swapped out: the kernel would kill the run.
    """
    limit, available = host_limit() / GIB, psutil.virtual_memory().available / GIB
    kept = sum(kinds.values())
    needed = processes * (kept + PROCESS_GIB)
    each = f"{processes} processes, each " if processes > 1 else ""
    parts = ", ".join(f"{kind} {size:.1f}" for kind, size in kinds.items() if size >= 0.05)
    text = f"{each}{kept:.1f} GiB ({parts}) and {PROCESS_GIB:g} for itself"
    logger.info("host memory, GiB: needs %.1f, free %.1f, limit %.1f", needed, available, limit)
    if needed > limit:
        smaller = " ".join(dict.fromkeys(SMALLER[kind] for kind, size in kinds.items() if size >= 0.05))
        raise UserError(
            f"this run would take host memory: {text}, which is more than the {limit:.1f} GiB of this machine.\n"
            f"Less is taken with {smaller} (but more of the GPU); memory.preflight=false skips this."
        )
    if kept and needed > available:
        note = f"Note: in host memory this run needs {text}; {available:.1f} of {limit:.1f} GiB are free now"
        console.warn(note)


def host_limit(files: Path = Path("/")) -> int:
    """Bytes that this process may use: what the machine has, or what its cgroup (a container, a Slurm job) allows.

    Args:
        files: the root of the file system.
    """
    limits = [psutil.virtual_memory().total]
    for name in _limit_files(files):
        try:
            limits.append(int((files / name).read_text()))
        except (OSError, ValueError):  # it is not there; `max`
            continue
    return min(limits)


def _limit_files(files: Path) -> list[str]:
    """Where the kernel says what the cgroups of this process may use: in version 2, all that enclose it count."""
    base = "sys/fs/cgroup"
    try:
        lines = (files / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    found = [f"{base}/memory.max", f"{base}/memory/memory.limit_in_bytes"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for folder in (Path(path), *Path(path).parents):
            if not controllers:
                found.append(f"{base}{folder}/memory.max")
            elif controllers == "memory":
                found.append(f"{base}/memory{folder}/memory.limit_in_bytes")
    return found
