"""Checks that processes on several machines can meet, before torch tries to for minutes. Does not need torch."""

import logging
import os
import platform
import socket
import time
from contextlib import closing

from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.waiting import report_long_wait

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 1.0
TRY = 5.0
"""Seconds that one try to connect may take."""

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that place a process among others."""


def ignore_leftovers() -> list[str]:
    """Takes variables of an earlier launch out of the environment, which libraries would follow; says which.

    Call where `rank_and_world_size` says that this process has no others.
    """
    left = [name for name in PLACE if name in os.environ]
    for name in left:
        del os.environ[name]
    return [name for name in left if not name.startswith("MASTER")]


def check_first(host: str, port: int, setting: str) -> None:
    """Checks, on the first machine, that a meeting point can be opened there and is reached by its name.

    Args:
        host: name or address of this machine.
        port: of the meeting point.
        setting: what names it, for messages.

    Raises:
        UserError: the name cannot be resolved, is that of another machine, or the port is taken.
    """
    resolve(host, port, setting)
    with closing(socket.socket()) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); set another one in {setting}") from None
        door.listen()
        why = _try(host, port)
    logger.debug("%s:%d can be opened here and is reached: %s", host, port, not why)
    if why:
        raise UserError(
            f"{host}:{port} is to be this machine ({platform.node()}), which does not reach itself there ({why}); set "
            f"{setting} to a name or an address of it"
        )


def wait_for_first(host: str, port: int, setting: str, timeout: float) -> None:
    """Waits, on another machine, until the first one has opened the meeting point; says so when that takes long.

    Raises:
        UserError: the name cannot be resolved, or nobody has opened it in time.
    """
    resolve(host, port, setting)
    end = time.monotonic() + timeout
    why = _try(host, port)
    if not why:
        return
    with report_long_wait(f"the first machine at {host}:{port} ({why})"):
        while why := _try(host, port):
            logger.debug("%s:%d: %s; trying again", host, port, why)
            if time.monotonic() > end:
                raise UserError(
                    f"the first machine could not be reached at {host}:{port} in {timeout:g} s ({why}); check that it "
                    f"runs, {setting}, and the firewall"
                )
            time.sleep(SECONDS_BETWEEN_TRIES)


def resolve(host: str, port: int, setting: str) -> None:
    """Raises a UserError if the name cannot be resolved here."""
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{platform.node()} cannot resolve the name {host} ({why}); set {setting} to an address of the first "
            "machine, or to a name that every machine resolves"
        ) from None


def _try(host: str, port: int) -> str:
    """Why there is no connection; nothing if there is one."""
    try:
        socket.create_connection((host, port), timeout=TRY).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
