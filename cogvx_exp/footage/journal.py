"""Results that are kept as soon as they are there, so that a killed command does not repeat them."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """A folder of JSON Lines files with keys and values; each process appends to its own file.

    A line that a killed process left incomplete is skipped.

    Args:
        folder: created when something is appended.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self._folder, self._rank = folder, rank

    def load(self) -> dict[str, Any]:
        """Everything that any process has appended."""
        found: dict[str, Any] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    try:
                        key, value = json.loads(line)
                    except ValueError:
                        continue
                    found[key] = value
        return found

    def append(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Adds values by their keys; they are on the disk when this returns.

        Raises:
            OSError: the file cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._rank}.jsonl"
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            for key, value in entries:
                file.write(json.dumps([key, value]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
