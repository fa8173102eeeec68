"""The log on standard error, enabled by COGVX_LOG. Without it, nothing is logged.

Modules use `logging.getLogger(__name__)` for what developers and bug reports need. Output for users is printed
(`cogvx_exp.console.progress`).
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cogvx_exp.console.terminal import visible
from cogvx_exp.core.errors import UserError

VARIABLE = "COGVX_LOG"
OURS = "cogvx_exp"
PACKAGE = Path(__file__).resolve().parents[1]
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

SECRET = re.compile(r"token|key|secret|passw|credential", re.IGNORECASE)
"""Environment variables whose values are masked in the log."""
SHORTEST_SECRET = 6
IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""User name and password in a URL."""


@contextmanager
def configured_logging() -> Iterator[None]:
    """Enables the log that COGVX_LOG selects.

    Raises:
        UserError: the value of COGVX_LOG is invalid.
    """
    selected = _selection()
    root = logging.getLogger()
    # Entered again by a job of a sweep, which would otherwise log every line twice.
    if selected is None or any(isinstance(handler, _Stderr) for handler in root.handlers):
        yield
        return
    level, name = selected
    loggers = {logging.getLogger(name or OURS): level}
    if level == logging.DEBUG and not name:
        loggers.setdefault(root, logging.INFO)  # at debug, matplotlib and PIL alone write thousands of lines
    before = {logger: logger.level for logger in loggers}
    handler = _Stderr()
    handler.setFormatter(_Formatter())
    root.addHandler(handler)
    for logger, wanted in loggers.items():
        logger.setLevel(wanted)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, old in before.items():
            logger.setLevel(old)


def libraries_are_logged() -> bool:
    """Whether the logs of libraries are enabled, too."""
    selected = _selection()
    return selected is not None and selected[0] == logging.DEBUG and not (selected[1] or "").startswith(OURS)


def _selection() -> tuple[int, str] | None:
    """The level, and the name of the logger if only one is selected."""
    value = os.environ.get(VARIABLE, "")
    if not value:
        return None
    level, colon, name = value.partition(":")
    if level.lower() not in LEVELS or (colon and not _is_module(name)):
        raise UserError(
            f"{VARIABLE}={value}: must be debug, info or warning, optionally with a module or package, such as "
            f"debug:{OURS}.launch"
        )
    return LEVELS[level.lower()], name


def _is_module(name: str) -> bool:
    """Whether a module exists, without importing it."""
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        return False
    first, *rest = name.split(".")
    if first != OURS:
        return find_spec(first) is not None
    path = PACKAGE.joinpath(*rest)
    return path.is_dir() or path.with_suffix(".py").is_file()


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Looked up at each line: tests and notebooks replace sys.stderr.
        print(self.format(record), file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    """`12:30:01.250 rank 0 INFO cogvx_exp.launch.start: ...`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(rank)s%(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
        record.rank = f"rank {rank} " if rank is not None else ""
        return visible(_without_secrets(super().format(record)))


def _without_secrets(text: str) -> str:
    # By value, since errors of libraries quote URLs and headers with tokens in them.
    secrets = [value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST_SECRET]
    for value in sorted(secrets, key=len, reverse=True):  # one secret may contain another
        text = text.replace(value, "***")
    return IN_ADDRESS.sub("***", text)
