"""The file of results: a line of JSON for each measurement and test, written as soon as it is known."""

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

Result = dict[str, Any]

FOLDER = Path(__file__).parent / "results"
"""Where results are kept unless `--out` says otherwise."""
FILE = "results.jsonl"
MEASURED, NO_MEMORY, FAILED, UNFINISHED = "measured", "out of memory", "failed", "unfinished"
"""How a measurement can end. What is unfinished is taken up by the next call."""


class Results:
    """Results by key; a later line replaces an earlier one.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path):
        self.file = folder / FILE

    def by_key(self) -> dict[str, Result]:
        """The last result of each key. A line that was cut off by a kill is no result."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return {result["key"]: result for result in filter(None, map(_parsed, lines))}

    def done(self) -> set[str]:
        """Keys that need not be measured again."""
        return {key for key, result in self.by_key().items() if result["status"] != UNFINISHED}

    def add(self, result: Result) -> None:
        """Appends a result; it is on the disk when this returns."""
        line = json.dumps({"time": datetime.now().isoformat(timespec="seconds"), **result}) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # cut off by a kill
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def machines(results: Iterable[Result]) -> list[Result]:
    """The different machines that results came from, each with the `revisions` of its results."""
    found: dict[str, Result] = {}
    for result in results:
        about = result.get("machine", {})
        known = found.setdefault(json.dumps(about, sort_keys=True), {**about, "revisions": []})
        if result.get("revision") not in known["revisions"]:
            known["revisions"].append(result.get("revision"))
    return list(found.values())


def _parsed(line: str) -> Result | None:
    try:
        result = json.loads(line)
    except ValueError:
        return None
    return result if isinstance(result, dict) and {"key", "status"} <= result.keys() else None
