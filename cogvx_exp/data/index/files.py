"""Caches information about files, keyed by path, size and modification times (SQLite)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

from cogvx_exp.core.files import file_hash
from cogvx_exp.data.index.database import Rebuildable
from cogvx_exp.media.video import VideoInfo

AT_ONCE = 500
"""Files per query; SQLite allows 999 variables."""

VERSION = 2
"""Version of the tables and their contents, part of their names: tables of other versions are not read."""

Stamp = tuple[str, int, int, int]
"""A file at some time: path, size in bytes, and its mtime and ctime in nanoseconds.

Programs cannot set the ctime, so it reveals a file that was overwritten with its mtime preserved (cp -p)."""

_STAMP = "path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER"
FILES, HASHES = f"files_v{VERSION}", f"hashes_v{VERSION}"
TABLES = (
    f"CREATE TABLE IF NOT EXISTS {FILES} ({_STAMP}, num_frames INTEGER, height INTEGER, width INTEGER,"
    " fps REAL, duration REAL, decoder TEXT) WITHOUT ROWID",
    f"CREATE TABLE IF NOT EXISTS {HASHES} ({_STAMP}, hash TEXT) WITHOUT ROWID",
)


def stamp_of(path: str) -> Stamp:
    """The current stamp of a file."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class FileIndex:
    """Information about video files. Several processes may use it at once."""

    def __init__(self, path: Path):
        self._database = Rebuildable(path, TABLES)

    def __enter__(self) -> "FileIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def infos(self, stamps: Sequence[Stamp]) -> dict[str, VideoInfo]:
        """Information about the files that have not changed since."""
        infos: dict[str, VideoInfo] = {}
        shared: dict[tuple, VideoInfo] = {}
        for stamp, row in self._rows(FILES, stamps):
            # One query by path; entries of files that have changed are dropped here.
            if row[:4] == stamp:
                # A million clips have few distinct infos, so equal ones share one object.
                values = row[4:]
                infos[stamp[0]] = shared.setdefault(values, VideoInfo(*values))
        return infos

    def hashes(self, stamps: Sequence[Stamp]) -> dict[str, str]:
        """Hashes of the contents of the files that have not changed since."""
        rows = self._rows(HASHES, stamps)
        return {stamp[0]: row[4] for stamp, row in rows if row[:4] == stamp}

    def add_infos(self, items: Iterable[tuple[Stamp, VideoInfo]]) -> None:
        """Stores information about files."""
        rows = ((*stamp, *astuple(info)) for stamp, info in items)
        self._database.insert(f"INSERT OR REPLACE INTO {FILES} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_hashes(self, items: Iterable[tuple[Stamp, str]]) -> None:
        """Stores hashes of files."""
        rows = ((*stamp, digest) for stamp, digest in items)
        self._database.insert(f"INSERT OR REPLACE INTO {HASHES} VALUES (?, ?, ?, ?, ?)", rows)

    def _rows(self, table: str, stamps: Sequence[Stamp]) -> Iterator[tuple[Stamp, tuple]]:
        for first in range(0, len(stamps), AT_ONCE):
            group = {stamp[0]: stamp for stamp in stamps[first : first + AT_ONCE]}
            marks = ",".join("?" * len(group))
            query = f"SELECT * FROM {table} WHERE path IN ({marks})"
            for row in self._database.select(query, list(group)):
                yield group[row[0]], row


def content_hashes(paths: Iterable[str], cache_dir: Path) -> dict[str, str]:
    """Hash of each file's content; unchanged files are not read again."""
    stamps = {path: stamp_of(path) for path in paths}
    with FileIndex(cache_dir / "index.sqlite") as index:
        known = index.hashes(list(stamps.values()))
        unknown = [path for path in stamps if path not in known]
        with ThreadPoolExecutor() as threads:  # hashing releases the GIL
            fresh = dict(zip(unknown, threads.map(lambda path: file_hash(Path(path)), unknown), strict=True))
        index.add_hashes((stamps[path], digest) for path, digest in fresh.items())
    return known | fresh
