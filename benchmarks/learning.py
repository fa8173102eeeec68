"""Checks whether training still learns with each setting: fine-tunes the tiny model and classifies its videos.

    python -m benchmarks.learning            # the rows that are missing; writes docs/learning.md, 90 minutes on 2 cores
    python -m benchmarks.learning --only attention=int8 i2v      # only these rows
    python -m benchmarks.learning --list

Each row runs `python -m cogvx_exp.train` (watched by `learning_probe.py`), then `python -m cogvx_exp.tiny_model.check`. What
is in --work is not run again, so it can be stopped and continued; --again runs rows anew. A row whose run has not done
what the row is about (`learning_rows.py`) is an error, and the page says what was seen.

    python -m benchmarks.learning --exercise     # two steps of each row, only to see that it does that; 10 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.learning_rows import ROWS, NotExercisedError, Row

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learning.md"
HEADER = """\
# What a setting learns

Written by `python -m benchmarks.learning` on {cores} CPU cores. Each row teaches the tiny model a concept from 20 clips that
show it and 20 ordinary ones ({steps} steps of 4 clips, otherwise default settings), then samples {prompts} prompts that neither
the base model nor the run has seen, with and without the concept, and classifies the pixels of the videos
(`cogvx_exp/demo/measure.py`). A setting that silently breaks learning shows up here.

The column *seen* is what the run was made of, as found in its process after the last step. A row whose run has not used
its setting is an error. The default rank of the tiny model is 32, so that its weights have more than 4096 values:
bitsandbytes and torchao keep float32 states for smaller ones. Offloading is shown on the software CUDA device
(`tests/software_cuda`), since a CPU has only one memory. `optim=paged_adamw` and `paged_adamw8bit` page the memory of a
GPU and have no row. In the row `i2v`, the start image already shows the style. Seconds per step are those of one core,
beside another run, and include compiling (`compile=blocks`).

| run | concept requested | not requested | colour | motion | background | seconds per step | seen |
|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="names of rows")
    parser.add_argument("--again", action="store_true", help="run the rows anew")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--exercise", action="store_true", help="only two steps, and no page")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name}: {row.settings}" for name, row in ROWS.items()))
        return 0
    unknown = set(arguments.only or ()) - ROWS.keys()
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; --list names them")
    if arguments.exercise:
        return _exercise({name: ROWS[name] for name in arguments.only or ROWS}, arguments.work / "exercise")
    rows, steps, failed = known_rows() if arguments.only else {}, 0, []
    for name, row in ROWS.items():
        if arguments.only and name not in arguments.only:
            continue
        folder = (arguments.work / "".join(letter if letter.isalnum() else "-" for letter in name)).resolve()
        if arguments.again:
            shutil.rmtree(folder, ignore_errors=True)
        _run(name, row, folder, arguments.prompts)
        rows[name], is_right = _cells(name, row, folder)
        if not is_right:
            failed.append(name)
        summary = folder / "run" / "summary.json"
        steps = json.loads(summary.read_text())["steps"] if not steps and summary.exists() else steps
        header = HEADER.format(cores=os.cpu_count(), steps=steps or 300, prompts=arguments.prompts)
        conditions = "".join(PAGE.read_text().partition("\n## Conditions\n")[1:])  # from benchmarks/conditions.py
        PAGE.write_text(header + "".join(f"{rows[name]}\n" for name in ROWS if name in rows) + conditions)
        print(rows[name], flush=True)
    if failed:
        print(f"not exercised: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def _run(name: str, row: Row, folder: Path, prompts: int) -> None:
    """Trains and checks, unless that is done."""
    run = folder / "run"
    if row.settings is not None and not (run / "summary.json").exists():
        settings = [*row.settings.split(), f"run_dir={run}", "validation=none", "resume=auto"]
        call("benchmarks.learning_probe", str(folder / "seen.json"), *settings, software_cuda=row.software_cuda)
    if not (folder / "check" / "shares.json").exists():
        check = ["--output", str(folder / "check"), "--prompts", str(prompts), "--concept", row.concept]
        check += ["--task", "i2v" if name == "i2v" else "t2v", *([] if row.settings is None else ["--run", str(run)])]
        call("cogvx_exp.tiny_model.check", *check)


def _exercise(rows: dict[str, Row], work: Path) -> int:
    """Trains each row for two steps; returns how many have not done what they are about."""
    failed = 0
    for number, (name, row) in enumerate(rows.items()):
        if row.settings is None:
            continue
        folder = (work / str(number)).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        short = ["steps=2", "lr_scheduler=constant", "data.clips=4", "validation=none"]
        settings = [*(text for text in row.settings.split() if not text.startswith("steps=")), *short]
        call(
            "benchmarks.learning_probe",
            str(folder / "seen.json"),
            *settings,
            f"run_dir={folder}/run",
            software_cuda=row.software_cuda,
        )
        try:
            print(f"{name}: {row.check(json.loads((folder / 'seen.json').read_text()))}", flush=True)
        except NotExercisedError as error:
            print(f"{name}: NOT EXERCISED: {error}", flush=True)
            failed += 1
    return failed


def _cells(name: str, row: Row, folder: Path) -> tuple[str, bool]:
    """The line of the table, and whether the run has done what the row is about."""
    shares = json.loads((folder / "check" / "shares.json").read_text())
    plain = shares["plain"]
    (requested,) = (some for what, some in shares.items() if what != "plain")
    cells = [requested["concept"], plain["concept"], plain["colour"], plain["direction"], plain["background"]]
    seconds, words, is_right = "", "", True
    if row.settings is not None:
        seconds = f"{json.loads((folder / 'run' / 'summary.json').read_text())['seconds_per_step']:.2f}"
        try:
            words = row.check(json.loads((folder / "seen.json").read_text()))
        except NotExercisedError as error:
            words, is_right = f"**not exercised**: {error}", False
    return f"| {name} | {' | '.join(f'{cell:.0%}' for cell in cells)} | {seconds} | {words} |", is_right


def known_rows() -> dict[str, str]:
    """The existing rows of the page, by name."""
    page = PAGE.read_text().partition("\n## Conditions\n")[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def call(module: str, *arguments: str, software_cuda: bool = False) -> None:
    started, environment = time.monotonic(), dict(os.environ)
    if software_cuda:
        from tests.software_cuda import environment as software_device

        environment = software_device()
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"{module} {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    print(f"  {module} {' '.join(arguments)}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
