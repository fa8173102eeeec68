"""Checks that processes on several machines can connect, before torch retries for minutes. Does not need torch."""

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
"""Timeout of one connection attempt, in seconds."""

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that define a process's rank."""


def ignore_leftovers() -> list[str]:
    """Removes rank variables of an earlier launch, which libraries would follow; returns their names.

    Call only if `rank_and_world_size` finds no other processes.
    """
    leftovers = [name for name in PLACE if name in os.environ]
    for name in leftovers:
        del os.environ[name]
    return [name for name in leftovers if not name.startswith("MASTER")]


def check_first(host: str, port: int, setting: str) -> None:
    """Checks on the first machine that it can listen on the rendezvous port and reaches itself by the given name.

    Args:
        host: name or address of this machine.
        port: of the rendezvous.
        setting: the setting that gives host and port, for messages.

    Raises:
        UserError: the name cannot be resolved, belongs to another machine, or the port is in use.
    """
    # Names first: torch reports an unknown host only after its own retries, as a timeout.
    resolve(host, port, setting)
    with closing(socket.socket()) as door:
        # Without SO_REUSEADDR, a port that an earlier run has just closed counts as taken.
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); choose another in {setting}") from None
        # Listens itself: the connection below must reach this process, not whatever else answers there.
        door.listen()
        why = _try(host, port)
    logger.debug("%s:%d can be opened here and is reached: %s", host, port, not why)
    if why:
        raise UserError(
            f"{host}:{port} should be this machine ({platform.node()}), but it cannot connect to itself there ({why}); "
            f"set {setting} to this machine's name or address"
        )


def wait_for_first(host: str, port: int, setting: str, timeout: float) -> None:
    """Waits on another machine until the first one listens, with a message if that takes long.

    Raises:
        UserError: the name cannot be resolved, or the first machine does not listen in time.
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
    """Raises a UserError if this machine cannot resolve the name."""
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{platform.node()} cannot resolve the name {host} ({why}); set {setting} to an address of the first "
            "machine, or to a name that all machines can resolve"
        ) from None


def _try(host: str, port: int) -> str:
    """The reason a connection fails, empty if it succeeds."""
    try:
        socket.create_connection((host, port), timeout=TRY).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
