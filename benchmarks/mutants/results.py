"""Results of mutants, one JSON line each."""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants.table import MUTANTS

FILE = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    key: str
    """The setting."""
    mutant: str
    """The mutant and its test, so that a result of another one does not count."""
    noticed: bool
    seconds: float


def identity(key: str) -> str:
    """Identifies a mutant and its test."""
    mutant = MUTANTS[key]
    return f"{mutant.file}: {mutant.before} -> {mutant.after} ({mutant.test})"


def read_results() -> dict[str, Result]:
    """The last result of each setting, of those that are of today's mutants."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    results = {result.key: result for result in (Result(**json.loads(line)) for line in lines)}
    return {key: results[key] for key in MUTANTS if key in results and results[key].mutant == identity(key)}


def keep_last() -> None:
    """Drops lines of earlier tries, and of mutants that are no longer there."""
    lines = [json.dumps(vars(result)) + "\n" for result in read_results().values()]
    FILE.write_text("".join(lines), encoding="utf-8")
