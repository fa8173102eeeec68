"""Runs random command lines on the tiny twins: each must end in a result, or in a refusal that names the setting.

    python benchmarks/random_runs.py --count 300 --seed 0

Prints every line that ends otherwise, with what it printed, and a summary. About 10 seconds a line.
"""

import argparse
import random
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.random_settings import random_command, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first line, to go on where a run was stopped"
    )
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.first, arguments.count):
            command = random_command(random.Random(f"{arguments.seed} {number}"))
            outcome = run(command, Path(folder) / f"run-{number}", Path(folder) / "cache")
            counts[outcome.kind] += 1
            if outcome.problem:
                print(f"\n{number}: {outcome.problem}\n  {shlex.join(command)}")
                print("\n".join(f"    {line}" for line in outcome.screen.splitlines()[-25:]), flush=True)
            elif number % 10 == 0:
                print(f"{number}: {dict(counts)}", flush=True)
    print(dict(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
