"""An SQLite file of data that can be recomputed: runs continue without it if it is damaged or unusable."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cogvx_exp.console.progress import console
from cogvx_exp.distributed.waiting import report_long_wait

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writing process."""
JOURNALS = ("", "-journal", "-wal", "-shm")
"""Suffixes of a database's files; a new database must not read an old journal."""
CREATE = "CREATE TABLE IF NOT EXISTS "


class Rebuildable:
    """A database that is recreated if it is damaged or has different tables, and kept in memory if it is unusable.

    The new database starts empty. The old file is kept with the suffix `.damaged`.

    Args:
        path: the file; its folder is created.
        tables: the statements that create the tables, each beginning with `CREATE`.
    """

    def __init__(self, path: Path, tables: Sequence[str]):
        self._path, self._tables = path, tables
        self._inode = 0
        self._connection: sqlite3.Connection | None = None

    def select(self, query: str, values: Sequence[object]) -> list[tuple]:
        """All rows of a query; empty if the database had to be recreated."""
        try:
            return self._opened().execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._replace(error)
            return []

    def insert(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        """Inserts rows, all or none."""
        # A list, as a second attempt reads them again.
        rows = list(rows)
        if not rows:
            return
        for _ in range(2):  # the second attempt uses the database that replaces a damaged one
            try:
                with report_long_wait(f"{self._path}, which another process holds"), self._opened() as database:
                    database.executemany(query, rows)
                return
            except sqlite3.Error as error:
                self._replace(error)

    def close(self) -> None:
        """Closes the file."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch()  # SQLite ignores the umask
            except OSError:
                pass  # it may still be readable
            self._connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT)
            with suppress(OSError):
                self._inode = self._path.stat().st_ino
            self._create()
        return self._connection

    def _create(self) -> None:
        assert self._connection
        there = dict(self._connection.execute("SELECT name, sql FROM sqlite_master WHERE type='table'").fetchall())
        for table in self._tables:
            definition = table.removeprefix(CREATE)
            name = definition.partition(" ")[0]
            if name not in there:
                self._connection.execute(table)
            elif there[name] != f"CREATE TABLE {definition}":
                raise sqlite3.DatabaseError(f"its table {name} has different columns")

    def _replace(self, error: sqlite3.Error) -> None:
        """Starts a new database: in a file if the old one is damaged, in memory if files cannot be used."""
        self.close()
        # Locked, read-only or on a file system without locks: the file itself may be fine.
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            self._forget(f"cannot be used ({error})")
            return
        try:
            # Another process may have replaced it already.
            # By inode, since the path is that of the new file as soon as another process has replaced it.
            if self._path.stat().st_ino == self._inode or not self._inode:
                for ending in JOURNALS:
                    file = self._path.with_name(self._path.name + ending)
                    with suppress(FileNotFoundError):
                        os.replace(file, self._path.with_name(f"{self._path.name}.damaged{ending}"))
                console.warn(f"Rebuilding {self._path}: {error}")
            self._opened()
        except (OSError, sqlite3.Error):
            self._forget(f"is damaged and cannot be replaced ({error})")

    def _forget(self, why: str) -> None:
        console.warn(f"Note: {self._path} {why}; files are examined again in every run")
        self._connection = sqlite3.connect(":memory:")
        self._create()
