"""Writes the golden losses anew: `python -m tests.golden.update`."""

import json
import tempfile
from pathlib import Path

from cogvx_exp.runs.metrics import read_metrics
from tests.entry import train as main

FILE = Path(__file__).with_name("tiny-t2v-lora.json")
IMAGE_FILE = Path(__file__).with_name("tiny-5b-i2v-lora.json")
IMAGE_RUN = ["steps=8", "validation=none", "data.workers=0", "lr_scheduler=constant", "data.holdout=1"]
"""Settings of the run with image-to-video."""


def update() -> None:
    """Runs the first 20 steps of the main job, and 8 of image-to-video, and stores their losses."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [f"run_dir={run}", f"cache_dir={folder}/cache", "steps=20", "validation=none"]
        assert main([*settings, "lr_scheduler.warmup_steps=2"]) == 0
        losses = [round(line["loss"], 6) for line in read_metrics(run / "metrics.jsonl")]
    FILE.write_text(json.dumps(losses, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [f"run_dir={run}", f"cache_dir={folder}/cache", "model=tiny-5b-i2v", "task=i2v"]
        assert main([*settings, *IMAGE_RUN]) == 0
        losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
    IMAGE_FILE.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    update()
