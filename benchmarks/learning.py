"""Checks whether training still learns with each setting: fine-tunes the tiny model and classifies its videos.

    python benchmarks/learning.py            # writes docs/learning.md, about an hour on 2 cores
    python benchmarks/learning.py --only attention=int8 i2v      # only these rows

Each row runs `python -m cogvx_exp.train`, then `python -m cogvx_exp.tiny_model.check`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "learning.md"
ROWS = {
    "the quickstart": "",
    "the base model, not trained": None,
    "method=lora_ff": "method=lora_ff",
    "method=dora": "method=dora",
    "method=loha": "method=loha",
    "method=lokr": "method=lokr",
    "method=sft": "method=sft",
    "optim=adamw8bit": "optim=adamw8bit",
    "optim=ao_adamw8bit": "optim=ao_adamw8bit",
    "optim=cpu_offload": "optim=cpu_offload",
    "optim=prodigy": "optim=prodigy",
    "optim=came": "optim=came",
    "optim=adafactor": "optim=adafactor",
    "optim=muon": "optim=muon",
    "optim=schedule_free": "optim=schedule_free",
    "quant=nf4": "quant=nf4",
    "quant=int8": "quant=int8",
    "quant=fp8": "quant=fp8",
    "quant=int8 quant.compute=8bit": "quant=int8 quant.compute=8bit",
    "quant=fp8 quant.compute=8bit": "quant=fp8 quant.compute=8bit",
    "attention=int8": "attention=int8",
    "compile=blocks": "compile=blocks",
    "model.dtype=bfloat16": "model.dtype=bfloat16",
    "memory.activations=checkpoint": "memory.activations=checkpoint",
    "distributed=ddp, 2 processes": "distributed=ddp distributed.processes=2 batch_size=2",
    "distributed=zero2, 2 processes": "distributed=zero2 distributed.processes=2 batch_size=2",
    "distributed=fsdp, 2 processes": "distributed=fsdp distributed.processes=2 batch_size=2",
    "data.concept=cross": "data.concept=cross",
    "data.concept=cross steps=1500": "data.concept=cross steps=1500",
    "data.concept=diagonally": "data.concept=diagonally",
    "i2v": "model=tiny-i2v task=i2v",
    "optim.lr=0 (learns nothing)": "optim.lr=0",
}
HEADER = """\
# What a setting learns

Written by `python benchmarks/learning.py` on {cores} CPU cores. Each row teaches the tiny model a concept from 20 clips that
show it and 20 ordinary ones ({steps} steps of 4 clips, otherwise default settings), then samples {prompts} prompts that neither the
base model nor the run has seen, with and without the concept, and classifies the pixels of the videos
(`cogvx_exp/demo/measure.py`). A setting that silently breaks learning shows up here. In the row `i2v` the start image already shows the style. Seconds per step include compiling (`compile=blocks`).

| run | concept requested | not requested | colour | motion | background | seconds per step |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="names of rows")
    arguments = parser.parse_args()
    rows, steps = known_rows() if arguments.only else {}, 0
    for name, settings in ROWS.items():
        if arguments.only and name not in arguments.only:
            continue
        folder = arguments.work / "".join(letter if letter.isalnum() else "-" for letter in name)
        run = folder / "run"
        if settings is not None and not (run / "summary.json").exists():
            call("cogvx_exp.train", *settings.split(), f"run_dir={run}", "validation=none", "resume=auto")
        if not (folder / "check" / "shares.json").exists():
            check = ["--output", str(folder / "check"), "--prompts", str(arguments.prompts)]
            concept = next(
                (part.partition("=")[2] for part in (settings or "").split() if "concept=" in part), "sketch"
            )
            task = "i2v" if "i2v" in name else "t2v"
            check += ["--concept", concept, "--task", task, *([] if settings is None else ["--run", str(run)])]
            call("cogvx_exp.tiny_model.check", *check)
        shares = json.loads((folder / "check" / "shares.json").read_text())
        plain = shares["plain"]
        (requested,) = (some for what, some in shares.items() if what != "plain")
        summary = json.loads((run / "summary.json").read_text()) if settings is not None else {}
        steps = summary.get("steps", steps)
        cells = [requested["concept"], plain["concept"], plain["colour"], plain["direction"], plain["background"]]
        seconds = f"{summary['seconds_per_step']:.2f}" if summary else ""
        rows[name] = f"| {name} | {' | '.join(f'{cell:.0%}' for cell in cells)} | {seconds} |"
        header = HEADER.format(cores=os.cpu_count(), steps=steps, prompts=arguments.prompts)
        conditions = "".join(PAGE.read_text().partition("\n## Conditions\n")[1:])  # from benchmarks/conditions.py
        PAGE.write_text(header + "".join(f"{rows[name]}\n" for name in ROWS if name in rows) + conditions)
        print(rows[name], flush=True)


def known_rows() -> dict[str, str]:
    """The existing rows of the page, by name."""
    page = PAGE.read_text().partition("\n## Conditions\n")[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def call(module: str, *arguments: str) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{module} {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    print(f"  {module} {' '.join(arguments)}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
