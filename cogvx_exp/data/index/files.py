"""Remembers what was found out about files, by path, size and times of change (SQLite)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from cogvx_exp.data.index.database import Rebuildable
from cogvx_exp.media.video import VideoInfo

AT_ONCE = 500
"""Files asked for in one query; SQLite allows 999 variables."""

VERSION = 2
"""Of the tables and of what they say, part of their names: of another version, nothing is read."""

Stamp = tuple[str, int, int, int]
"""A file at a moment: path, size in bytes, and in nanoseconds the times of change of its content and of its inode.

The second cannot be set by a program: it reveals a file that was overwritten with its time of change kept (cp -p)."""

_STAMP = "path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER"
FILES, HASHES = f"files_v{VERSION}", f"hashes_v{VERSION}"
TABLES = (
    f"CREATE TABLE IF NOT EXISTS {FILES} ({_STAMP}, num_frames INTEGER, height INTEGER, width INTEGER,"
    " fps REAL, duration REAL, decoder TEXT) WITHOUT ROWID",
    f"CREATE TABLE IF NOT EXISTS {HASHES} ({_STAMP}, hash TEXT) WITHOUT ROWID",
)


def stamp_of(path: str) -> Stamp:
    """The file's stamp now."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns


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
        for stamp, row in self._rows(FILES, stamps):
            if row[:4] == stamp:
                # A million clips have few different infos: equal ones are one object.
                values = row[4:]
                found[stamp[0]] = shared.setdefault(values, VideoInfo(*values))
        return found

    def hashes(self, stamps: Sequence[Stamp]) -> dict[str, str]:
        """Hashes of the contents of the files that have not changed since."""
        rows = self._rows(HASHES, stamps)
        return {stamp[0]: row[4] for stamp, row in rows if row[:4] == stamp}

    def add_infos(self, items: Iterable[tuple[Stamp, VideoInfo]]) -> None:
        """Remembers what was found out about files."""
        rows = ((*stamp, *astuple(info)) for stamp, info in items)
        self._database.insert(f"INSERT OR REPLACE INTO {FILES} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_hashes(self, items: Iterable[tuple[Stamp, str]]) -> None:
        """Remembers hashes of files."""
        rows = ((*stamp, digest) for stamp, digest in items)
        self._database.insert(f"INSERT OR REPLACE INTO {HASHES} VALUES (?, ?, ?, ?, ?)", rows)

    def _rows(self, table: str, stamps: Sequence[Stamp]) -> Iterator[tuple[Stamp, tuple]]:
        for first in range(0, len(stamps), AT_ONCE):
            group = {stamp[0]: stamp for stamp in stamps[first : first + AT_ONCE]}
            marks = ",".join("?" * len(group))
            query = f"SELECT * FROM {table} WHERE path IN ({marks})"
            for row in self._database.select(query, list(group)):
                yield group[row[0]], row
