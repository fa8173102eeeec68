"""Ignores one setting at a time in the code, and expects the test that the table names to notice.

    python -m benchmarks.mutants                         # what has no result yet; writes docs/mutants.md, 10 minutes
    python -m benchmarks.mutants --only optim. seed      # these settings, or all that begin so, again
    python -m benchmarks.mutants --docs                  # only the page

Results are in results.jsonl beside this file, by mutant and test, so a changed one is tried again. All mutants of a test
are tried in one fork of a process that has imported the product; no file changes.
"""

import argparse
import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.mutants.page import write_page
from benchmarks.mutants.results import FILE, Result, identity, keep_last, read_results
from benchmarks.mutants.swap import swapped
from benchmarks.mutants.table import MUTANTS
from tests.mutation import LIBRARIES, ROOT

TIMEOUT = 300
"""Seconds after which a test hangs, which counts as noticed."""
NOT_PRODUCT = ("workers", "tiny_model", "templates")
"""Packages with scripts, which are not imported."""


def main() -> int:
    """Tries mutants; returns how many got through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="settings, or their beginnings")
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    if not arguments.docs:
        _import_all()
        by_test: dict[str, list[str]] = {}
        for key in _wanted(arguments.only):
            by_test.setdefault(MUTANTS[key].test, []).append(key)
        broken = [test for test, keys in by_test.items() if not _try_in_fork(test, keys)]
        if broken:
            print(f"do not pass as they are, or die: {', '.join(broken)}")
    keep_last()
    write_page()
    through = [result.key for result in read_results().values() if not result.noticed]
    print(f"NOT NOTICED: {', '.join(through)}" if through else "all are noticed")
    return len(through)


def _wanted(only: list[str]) -> list[str]:
    if only:
        return [key for key in MUTANTS if key.startswith(tuple(only))]
    results = read_results()
    return [key for key in MUTANTS if key not in results or not results[key].noticed]


def _import_all() -> None:
    import cogvx_exp
    from cogvx_exp.console.quiet import quiet_libraries

    quiet_libraries()
    importlib.import_module("tests.conftest")._composed(())  # what most tests begin with
    for module in pkgutil.walk_packages(cogvx_exp.__path__, "cogvx_exp."):
        if not set(module.name.split(".")) & set(NOT_PRODUCT):
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)


def _try_in_fork(test: str, keys: list[str]) -> bool:
    """Tries the mutants of a test; returns whether that was possible."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _try_all(test, keys)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _try_all(test: str, keys: list[str]) -> int:
    code, said = _pytest(test)
    if code:
        print(said[-4000:], flush=True)
        return 1
    for key in keys:
        started = time.monotonic()
        with swapped(MUTANTS[key]):
            code, said = _pytest(test)
        if code not in (0, 1):
            print(said[-4000:], flush=True)
            return 1
        result = Result(key, identity(key), bool(code), round(time.monotonic() - started, 1))
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(result)) + "\n")
        print(f"{'noticed' if code else 'NOT NOTICED':12} {key}  {result.seconds:.1f} s  {test}", flush=True)
    return 0


def _pytest(test: str) -> tuple[int, str]:
    """Exit code and output of a test."""
    import pytest

    def hangs(number: int, frame: Any) -> None:
        raise TimeoutError(f"no result after {TIMEOUT} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(TIMEOUT)
    stdout, stderr = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "", "--durations=0"]
            code = int(pytest.main([*arguments, str(Path(ROOT, "tests", test))]))
        finally:
            signal.alarm(0)
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
        output.seek(0)
        return code, output.read()


if __name__ == "__main__":
    sys.exit(min(main(), 1))
