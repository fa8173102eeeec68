"""Kills training again and again and compares the end with an undisturbed run: `python benchmarks/kills.py`.

A run is started, killed with SIGKILL (all of its processes) at a random moment of a randomly chosen phase, and started again
with the same command until it ends. Then its checkpoint, export and losses must be those of the undisturbed run: to the bit
with one process, to 1e-5 with two. Writes docs/kills.md. 100 kills take about twenty minutes on 2 cores.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from safetensors.torch import load_file

from cogvx_exp.runs.metrics import read_metrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kills.md"

COMMON = ["steps=120", "checkpoint.every=10", "data.workers=0", "resume=auto", "validation.every=60"]
COMMON += ["validation.num_inference_steps=8", "lr_scheduler=constant", "ema_decay=null"]
SCENARIOS = {
    "LoRA, one process": ["method=lora"],
    "all weights, one process": ["method=sft"],
    "LoRA, two processes (ddp)": ["method=lora", "distributed=ddp"],
    "all weights, two processes (fsdp)": ["method=sft", "distributed=fsdp"],
}
PHASES = ("starting", "preparing", "training", "saving", "validating")


@dataclass
class Attempt:
    """A started run."""

    process: subprocess.Popen
    folder: Path
    log: Path

    def phase(self) -> str:
        """What the run is doing, as far as can be seen from outside."""
        if any(self.folder.glob("run/checkpoints/.*.tmp")):
            return "saving"
        text = self.log.read_text()
        last = max((text.rfind(word), word) for word in ("Encoding", "Reading", "Training ", "Sampling", "Resuming"))
        if last[0] < 0:
            return "starting"
        names = {"Encoding": "preparing", "Reading": "preparing", "Sampling": "validating"}
        return names.get(last[1], "training")

    def kill(self) -> None:
        """SIGKILL to all processes."""
        pids = [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def start(folder: Path, settings: list[str]) -> Attempt:
    """Starts a run in a folder with a cache of its own."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "cogvx_exp.train", *COMMON, *settings]
    command += [f"run_dir={folder / 'run'}", f"cache_dir={folder / 'cache'}"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment)
    return Attempt(process, folder, log)


def disturbed(folder: Path, settings: list[str], killed: Counter) -> None:
    """Starts and kills until a run comes to its end."""
    while True:
        attempt = start(folder, settings)
        wanted, deadline = random.choice(PHASES), time.monotonic() + random.uniform(6, 20)
        while attempt.process.poll() is None and attempt.phase() != wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.4) if wanted != "saving" else 0)
        if attempt.process.poll() is None:
            killed[attempt.phase()] += 1
            attempt.kill()
        elif attempt.process.returncode == 0:
            return
        else:
            sys.exit(f"A run failed by itself:\n{attempt.log.read_text()}")


def compare(run: Path, undisturbed: Path, exact: bool) -> None:
    """Exits if the results differ."""
    paths = [path.relative_to(undisturbed) for path in undisturbed.rglob("*.safetensors") if "step-000120" in str(path)]
    paths += [path.relative_to(undisturbed) for path in (undisturbed / "export").rglob("*.safetensors")]
    assert len(paths) >= 3
    for path in paths:
        ours, theirs = load_file(run / path), load_file(undisturbed / path)
        difference = sum(float((ours[name] - tensor).double().square().sum()) for name, tensor in theirs.items())
        size = sum(float(tensor.double().square().sum()) for tensor in theirs.values())
        if ours.keys() != theirs.keys() or difference > (0 if exact else 1e-10 * size):
            sys.exit(f"{run / path} differs from the undisturbed run by {difference**0.5:.3g} of {size**0.5:.3g}")
    losses = [[line["loss"] for line in read_metrics(folder / "metrics.jsonl")] for folder in (run, undisturbed)]
    if len(losses[0]) != len(losses[1]) or (exact and losses[0] != losses[1]):
        sys.exit(f"{run} has other losses than the undisturbed run")


def main() -> None:
    """Kills until there were enough, scenario by scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many in all, at least")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    rows = []
    for name, settings in SCENARIOS.items():
        killed: Counter[str] = Counter()
        runs = 0
        with tempfile.TemporaryDirectory() as scratch:
            reference = Path(scratch, "undisturbed")
            reference.mkdir()
            attempt = start(reference, settings)
            if attempt.process.wait():
                sys.exit(attempt.log.read_text())
            while killed.total() < arguments.kills / len(SCENARIOS):
                folder = Path(scratch, f"disturbed-{runs}")
                folder.mkdir()
                disturbed(folder, settings, killed)
                compare(folder / "run", reference / "run", exact="one" in name)
                runs += 1
                print(f"{name}: {runs} runs, {killed.total()} kills {dict(killed)}", flush=True)
        rows.append([name, *(str(killed[phase]) for phase in PHASES), str(killed.total()), str(runs)])
    header = ["", *PHASES, "kills", "runs equal to the uninterrupted one"]
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    PAGE.write_text(
        f"# Killed and resumed\n\nWritten by `python benchmarks/kills.py`, whose docstring describes the method.\n\n{text}\n"
    )
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
