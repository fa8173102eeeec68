"""Tests and measures this project on a GPU, in pieces of less than ten minutes.

    python -m benchmarks.gpu                 # what has no result yet, for nine minutes; again for the rest
    python -m benchmarks.gpu --list          # the pieces, and what is left of each
    python -m benchmarks.gpu tests 5b        # some pieces
    python -m benchmarks.gpu --docs          # docs/measured.md and the measured cells of docs/memory.md
    python -m benchmarks.gpu --simulate      # a dry run with small models on the software CUDA device (needs g++)

Nothing is downloaded: weights and clips are random. A checkout with the packages of pyproject.toml on PYTHONPATH is
enough; it need not be installed. Each result is written as soon as it is known, with the machine, versions and commit.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.blocks import ROWS, key_of, run_blocks
from benchmarks.gpu.machine import NEEDED, ROOT, USED, missing, revision
from benchmarks.gpu.results import FAILED, FOLDER, Results
from benchmarks.gpu.table import BLOCKS, TESTS, Measurement, all_measurements, pieces_of


def main(arguments: list[str]) -> int:
    """Runs what the command line asks for. 0: all that was run went well; 1: something failed; 2: it cannot be run."""
    options = _options(arguments)
    measurements = all_measurements()
    unknown = [name for name in options.pieces if name not in pieces_of(measurements)]
    if unknown:
        print(f"there is no piece {', '.join(unknown)}; there are {', '.join(pieces_of(measurements))}")
        return 2
    lacking = missing(NEEDED)
    if lacking and not options.list:
        print(f"these packages are missing: {', '.join(lacking)}; install them or put them on PYTHONPATH")
        return 2
    if options.simulate:
        return _simulate(options)
    results = Results(options.out)
    if options.list:
        return _list(results, measurements)
    if options.docs:
        return _write_docs(results, ROOT / "docs")
    import torch

    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA GPU here; --simulate makes a dry run without one")
        return 2
    return _run(options, results)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help="default: all")
    parser.add_argument("--list", action="store_true", help="say what there is and what is left")
    parser.add_argument("--docs", action="store_true", help="write the pages from the results")
    parser.add_argument("--simulate", action="store_true", help="dry run without a GPU, in a folder of its own")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing that would take longer (%(default)g)")
    parser.add_argument("--limit", type=int, help="at most so many measurements")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows with this in their settings; of tests, pytest's -k"
    )
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--jobs", type=int, default=1, help="processes of tests at a time (%(default)d)")
    parser.add_argument("--out", type=Path, help=f"folder of the results (default: {FOLDER.relative_to(ROOT)})")
    parser.add_argument("--cache", type=Path, default=ROOT / "outputs" / "gpu", help="for weights: 16 GiB, better 50")
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="a checkout of the CogVideoX Factory to time, too"
    )
    parser.add_argument("--revision", help="the commit, where there is no git")
    options = parser.parse_args(arguments)
    options.out = options.out or (Path(tempfile.mkdtemp(prefix="gpu-")) if options.simulate else FOLDER)
    return options


def _run(options: argparse.Namespace, results: Results, **simulation: object) -> int:
    """Runs the pieces one after the other, for as long as there is time, and says what is left."""
    from benchmarks.gpu.runner import Session, measure_all
    from benchmarks.gpu.testing import run_tests

    for name, what in USED.items():
        if missing([name]):
            print(f"Note: {name} is missing, without which these fail: {what}")
    session = Session(
        results=results,
        cache=options.cache.resolve(),
        minutes=options.minutes,
        revision=options.revision or revision(),
        reference=options.reference,
        **simulation,  # type: ignore[arg-type]
    )
    before = results.by_key()
    left = 0
    if TESTS in (options.pieces or [TESTS]) and not missing(["pytest"]):
        left += len(run_tests(session, again=options.again, only=options.only, jobs=options.jobs))
    if BLOCKS in (options.pieces or [BLOCKS]):
        left += len(run_blocks(session, again=options.again, only=options.only))
    chosen = _chosen(options, results)
    left += len(measure_all(session, chosen))
    new = [result for key, result in results.by_key().items() if result != before.get(key)]
    failed = [result for result in new if result["status"] == FAILED]
    print(f"\n{len(new)} results in {results.file}, of which {len(failed)} failed; {left} are left")
    return 1 if failed else 0


def _chosen(options: argparse.Namespace, results: Results) -> list[Measurement]:
    """The measurements that are asked for and have no result."""
    done = set() if options.again else results.done()
    rows = [row for row in all_measurements() if row.key not in done and options.only in row.settings]
    rows = [row for row in rows if row.piece in (options.pieces or [row.piece])]
    if not options.reference:
        rows = [row for row in rows if not row.factory]
    return rows[: options.limit]


def _simulate(options: argparse.Namespace) -> int:
    """The same on the software device, with its docs in the folder of the results."""
    from tests.software_cuda import environment
    from tests.software_cuda.build import NoCompilerError

    try:
        device = environment(OMP_NUM_THREADS="1")
    except NoCompilerError as error:
        print(f"--simulate {error}")
        return 2
    options.cache = options.out / "cache"
    results = Results(options.out)
    if not options.docs:
        code = _run(options, results, simulate=True, environment=device)
    docs = options.out / "docs"
    docs.mkdir(exist_ok=True)
    shutil.copy(ROOT / "docs" / "memory.md", docs)
    return _write_docs(results, docs, simulated=True) or (0 if options.docs else code)


def _write_docs(results: Results, folder: Path, *, simulated: bool = False) -> int:
    from benchmarks.gpu.docs import write_docs

    for page in write_docs(results, folder, simulated=simulated):
        print(f"Wrote {page}")
    return 0


def _list(results: Results, measurements: list[Measurement]) -> int:
    done = results.done()
    print(f"{'piece':<16} {'done':>5} {'left':>5}  minutes left, on an H100")
    tests = sum(result["piece"] == TESTS for result in results.by_key().values())
    print(f"{TESTS:<16} {tests:>5}     ?  about 9")
    blocks = [row for row in ROWS if key_of(row) not in done]
    print(f"{BLOCKS:<16} {len(ROWS) - len(blocks):>5} {len(blocks):>5}  {len(blocks) / 6:.0f}")
    for piece in pieces_of(measurements)[2:]:
        rows = [row for row in measurements if row.piece == piece]
        left = [row for row in rows if row.key not in done]
        print(f"{piece:<16} {len(rows) - len(left):>5} {len(left):>5}  {sum(row.minutes for row in left):.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
