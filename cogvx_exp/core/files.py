"""Atomic file writes: readers see the complete file or none."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from cogvx_exp.core.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, because a rename is atomic only within one file system.
    tmp = _temporary_name(path)
    try:
        yield tmp
        mode_by_umask(tmp)
        # fsync before the rename: otherwise a power cut can leave the new name with empty content.
        _sync(tmp)
        tmp.replace(path)
    finally:
        # After a success the name is gone already.
        tmp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as tmp:
        tmp.write_text(text, encoding="utf-8", errors="backslashreplace")  # lone surrogates are legal in JSON


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `folder` that becomes `folder` when the block succeeds.

    If another process has created `folder` in the meantime, that one is kept.
    """
    tmp = _temporary_name(folder)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        sync_folder(tmp)
        try:
            # rename refuses to replace a folder with files in it: the first of several processes wins, the others throw
            # away.
            tmp.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `folder` that replaces `folder` when the block succeeds."""
    # Fixed names, unlike in `whole_folder`: one process owns the folder, and finds what a kill has left.
    tmp, before = (folder.with_name(f".{folder.name}.{what}") for what in ("tmp", "before"))
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        sync_folder(tmp)
        shutil.rmtree(before, ignore_errors=True)
        # A rename cannot replace a folder with files in it, so the old one is moved away first.
        if folder.exists():
            folder.replace(before)
        tmp.replace(folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)  # frees the space if the disk is full
    shutil.rmtree(before, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the files of a folder and their names survive a power cut, with modes according to the umask."""
    for path in folder.rglob("*"):
        # Files before the folder: a name that survives a power cut must not lead to missing content.
        if path.is_file():
            mode_by_umask(path)
            _sync(path)
    _sync(folder)  # the names are in the folder's own inode


def make_folder(folder: Path, setting: str) -> None:
    """Creates the folder named by a setting, if it does not exist.

    Raises:
        UserError: it is not a folder, or cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    # exist_ok=True still raises FileExistsError if the path is a file.
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{setting}={folder}: this path or one of its parents is a file; choose a folder") from None
    except OSError as error:
        raise UserError(f"{setting}={folder} cannot be created ({error.strerror}); choose another folder") from None


def copy_folder(source: Path, folder: Path, leave_out: str = "") -> None:
    """Copies the files of a folder into another, with default modes, not those of an installed package.

    Args:
        source: the folder to copy.
        folder: created if needed; existing files in it are kept.
        leave_out: suffix of file names to skip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        there = folder / path.relative_to(source)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        elif not (leave_out and path.name.endswith(leave_out)):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)


def new_folder(folder: Path) -> Path:
    """Creates a new folder with this name, or with a number appended if it is taken by any process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        made = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        # mkdir is atomic: of several processes, only one creates a name.
        with suppress(FileExistsError):
            made.mkdir()
            return made
    raise AssertionError("unreachable: count() never ends")


def mode_by_umask(path: Path) -> None:
    """Applies the umask to a new file, or to all files of a folder: safetensors creates them with mode 600."""
    wanted = 0o666 & ~_umask()
    for file in [path] if path.is_file() else path.rglob("*"):
        # Only mode 600, which safetensors sets: any other mode is someone's decision.
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o777 == 0o600 != wanted:
            with suppress(OSError):  # file systems without modes
                file.chmod(wanted)


def _umask() -> int:
    """The process's umask, from /proc: os.umask can only read it by changing it, which affects other threads."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    # Only where there is no /proc, and for a moment: other threads would create files with this umask.
    before = os.umask(0o022)
    os.umask(before)
    return before


def _temporary_name(path: Path) -> Path:
    """A temporary name that is unique across machines, and never longer than names may be."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


def _sync(path: Path) -> None:
    # Read-only is enough for fsync, and the only way to open a folder.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """BLAKE2 hash (128 bits, hexadecimal) of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    # BLAKE2 is faster than SHA-256 where the CPU has no instructions for that, and is in the standard library.
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """BLAKE2 hash (128 bits, hexadecimal) of a JSON-like value, independent of the order of its keys."""
    # default=str for paths; a change here would invalidate all caches.
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=16).hexdigest()
