"""Writes the golden losses anew: `python -m tests.golden.update`."""

import json
import tempfile
from pathlib import Path

from cogvx_exp.runs.metrics import read_metrics
from tests.entry import train as main

FILE = Path(__file__).with_name("tiny-t2v-lora.json")


def update() -> None:
    """Runs the first 20 steps of the main job and stores their losses."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [f"run_dir={run}", f"cache_dir={folder}/cache", "steps=20", "validation=none"]
        assert main([*settings, "lr_scheduler.warmup_steps=2"]) == 0
        losses = [round(line["loss"], 6) for line in read_metrics(run / "metrics.jsonl")]
    FILE.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    update()
