"""Ignores one setting at a time in the code, and expects the test that is named in the table to notice.

    python -m benchmarks.mutants                         # what has no result yet; writes docs/mutants.md, an hour
    python -m benchmarks.mutants --only optim. seed      # these settings, or all that begin so, again
    python -m benchmarks.mutants --docs                  # only the page

Results are kept in results.jsonl beside this file, by mutant and test, so a changed one is tried again.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.mutants.page import write_page
from benchmarks.mutants.results import FILE, Result, identity, read_results
from benchmarks.mutants.table import MUTANTS
from tests.mutation import FAILED, LIBRARIES, PASSED, checked

TESTS = Path(__file__).parents[2] / "tests"


def main() -> int:
    """Tries mutants; returns how many got through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="settings, or their beginnings")
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    through = 0 if arguments.docs else _try(_wanted(arguments.only))
    write_page()
    return through


def _wanted(only: list[str]) -> list[str]:
    if only:
        return [key for key in MUTANTS if key.startswith(tuple(only))]
    known = {result.mutant for result in read_results().values() if result.noticed}
    return [key for key in MUTANTS if identity(key) not in known]


def _try(keys: list[str]) -> int:
    from cogvx_exp.console.quiet import ENVIRONMENT

    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    sys.modules.pop("cogvx_exp.console.quiet")  # the forks import the product themselves
    for name in [name for name in sys.modules if name.partition(".")[0] == "cogvx_exp"]:
        del sys.modules[name]
    for name in LIBRARIES:
        importlib.import_module(name)
    passing: dict[str, bool] = {}
    through = 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MUTANTS_CACHE"] = cache
        for number, key in enumerate(keys, 1):
            result = _result(key, passing)
            with FILE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(vars(result)) + "\n")
            word = "noticed" if result.noticed else "NOT NOTICED"
            print(f"{number}/{len(keys)} {word:12} {key}  {result.seconds:.0f} s  {result.test}", flush=True)
            through += not result.noticed
    return through


def _result(key: str, passing: dict[str, bool]) -> Result:
    """Tries a mutant.

    Raises:
        RuntimeError: its test fails on the code as it is, or does not run.
    """
    mutant, started = MUTANTS[key], time.monotonic()
    test = str(TESTS / mutant.test)
    if mutant.test not in passing:
        code, said = checked([test], None)
        if code != PASSED:
            raise RuntimeError(f"{mutant.test} does not pass as it is:\n{said[-4000:]}")
        passing[mutant.test] = True
        started = time.monotonic()
    code, said = checked([test], mutant)
    if code not in (PASSED, FAILED):
        raise RuntimeError(f"{key}: pytest ended with {code}:\n{said[-4000:]}")
    return Result(key, identity(key), mutant.test, code == FAILED, round(time.monotonic() - started, 1))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
