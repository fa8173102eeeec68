"""Remembers what was found out about files, by path, size and time of change (SQLite)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from cogvx_exp.data.rebuildable import Rebuildable
from cogvx_exp.data.video import VideoInfo

AT_ONCE = 500
"""Files asked for in one query; SQLite allows 999 variables."""

TABLES = (
    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER,"
    " num_frames INTEGER, height INTEGER, width INTEGER, fps REAL, duration REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, hash TEXT) WITHOUT ROWID",
)

Stamp = tuple[str, int, int]
"""A file at a moment: path, size in bytes, time of change in nanoseconds."""


def stamp_of(path: str) -> Stamp:
    """The file's stamp now."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


class FileIndex:
    """What is known about video files. Several processes may use it at once."""

    def __init__(self, path: Path):
        self._database = Rebuildable(path, TABLES)

    def __enter__(self) -> "FileIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def infos(self, stamps: Sequence[Stamp]) -> dict[str, VideoInfo]:
        """What is known about the files that have not changed since."""
        found: dict[str, VideoInfo] = {}
        shared: dict[tuple, VideoInfo] = {}
        for (path, size, mtime), row in self._rows("files", stamps):
            if row[1] == size and row[2] == mtime:
                # A million clips have few different infos: equal ones are one object.
                values = row[3:]
                found[path] = shared.setdefault(values, VideoInfo(*values))
        return found

    def hashes(self, stamps: Sequence[Stamp]) -> dict[str, str]:
        """Hashes of the contents of the files that have not changed since."""
        rows = self._rows("hashes", stamps)
        return {path: row[3] for (path, size, mtime), row in rows if row[1] == size and row[2] == mtime}

    def add_infos(self, items: Iterable[tuple[Stamp, VideoInfo]]) -> None:
        """Remembers what was found out about files."""
        rows = ((*stamp, *astuple(info)) for stamp, info in items)
        self._database.insert("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_hashes(self, items: Iterable[tuple[Stamp, str]]) -> None:
        """Remembers hashes of files."""
        rows = ((*stamp, digest) for stamp, digest in items)
        self._database.insert("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", rows)

    def _rows(self, table: str, stamps: Sequence[Stamp]) -> Iterator[tuple[Stamp, tuple]]:
        for first in range(0, len(stamps), AT_ONCE):
            group = {stamp[0]: stamp for stamp in stamps[first : first + AT_ONCE]}
            marks = ",".join("?" * len(group))
            query = f"SELECT * FROM {table} WHERE path IN ({marks})"
            for row in self._database.select(query, list(group)):
                yield group[row[0]], row
