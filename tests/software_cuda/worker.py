"""What the process that runs cases does (`__main__.py`), on the device."""

import gc
import io
import json
import os
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from cogvx_exp.model.offload import blocks
from cogvx_exp.runs.metrics import Metrics
from tests import entry

WORTH_PARKING = blocks.WORTH_PARKING
TOTAL = 80 << 30


def main(asked: Path, told: Path) -> None:
    """Runs all cases, and writes down each outcome as it comes."""
    for case in json.loads(asked.read_text()):
        outcome = run(case)
        with told.open("a") as file:
            file.write(json.dumps(outcome) + "\n")


class StepCounter:
    """Counts how often the host waits for the device from the figures of one step to those of the next."""

    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []
        write = Metrics.write

        def counted(metrics: Metrics, **values: Any) -> None:
            if "grad_norm" in values:  # not the held-out loss
                self.counts.append(torch._C._software_cuda.synchronizations())
            write(metrics, **values)

        Metrics.write = counted

    def between_steps(self) -> list[dict[str, int]]:
        """Of each step but the first one: waits by operator."""
        pairs = zip(self.counts, self.counts[1:], strict=False)
        return [
            {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
            for before, after in pairs
        ]


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Runs one case."""
    device = torch._C._software_cuda
    gc.collect()
    device.empty_cache()
    device.set_races(case["races"])
    device.clear_races()
    device.clear_synchronizations()
    STEPS.counts.clear()
    device.set_total(0, case["total_mib"] << 20 if case["total_mib"] else TOTAL)
    device.reset_peak(0)
    device.reset_pinned_peak()
    os.environ["SOFTWARE_CUDA_TOTAL_MIB"] = str((case["total_mib"] << 20 if case["total_mib"] else TOTAL) >> 20)
    os.environ["SOFTWARE_CUDA_RACES"] = str(case["races"])
    os.environ.pop("DS_ACCELERATOR", None)  # of a case on the other device
    blocks.WORTH_PARKING = case["park"] or WORTH_PARKING
    said, started = io.StringIO(), time.process_time()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = getattr(entry, case["command"])(case["settings"])
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = -1
    return {
        "code": code,
        "seconds": round(time.process_time() - started, 2),
        "text": said.getvalue(),
        "metrics": _metrics(case["settings"]),
        "races": device.races(),
        "synchronizations": STEPS.between_steps(),
        "usage": device.usage(0),
    }


STEPS = StepCounter()


def _metrics(settings: list[str]) -> list[dict[str, Any]]:
    folder = next((text.removeprefix("run_dir=") for text in settings if text.startswith("run_dir=")), None)
    file = Path(folder) / "metrics.jsonl" if folder else None
    return [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []
