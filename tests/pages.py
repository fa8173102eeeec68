"""Run folders as training leaves them, made without training, and the browser that looks at their page."""

import json
import math
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.files import write_json
from cogvx_exp.media.video import write_video
from cogvx_exp.runs.run_folder import RunFolder, write_status

PROMPTS = ("a red circle", "a blue square that moves")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def write_run(folder: Path, job: TrainJob, overrides: list[str], video: Path, steps: int = 300) -> RunFolder:
    """A finished run with its metrics and the videos of two prompts, before training and after it."""
    run = RunFolder(folder)
    run.start(job, overrides)
    chance = random.Random(str(overrides))
    lines, held_out = [], []
    for step in range(1, steps + 1):
        loss = 0.3 + math.exp(-step * job.optim.lr * 10) + chance.gauss(0, 0.05)
        about = {"loss": loss, "loss_smoothed": loss, "lr": job.optim.lr, "grad_norm": 1.0, "step_seconds": 0.1}
        lines.append({"step": step, **about, "memory_gib": 1.0})
        if step % 100 == 0:
            held_out.append({"step": step, "loss": loss})
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.held_out.write_text("".join(json.dumps(line) + "\n" for line in held_out))
    for step in (0, steps):
        for number, prompt in enumerate(PROMPTS):
            path = run.validation(step) / f"{number:02d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, path)
            write_json(path.with_suffix(".json"), {"prompt": prompt})
    write_json(folder / "summary.json", {"loss_last_tenth": loss, "seconds": 30.0, "seconds_per_step": 0.1})
    write_status(run, "finished", step=steps)
    return run


def write_clip(path: Path) -> Path:
    """A video of two seconds."""
    frames = np.stack([np.full((64, 96, 3), 15 * index, dtype=np.uint8) for index in range(16)])
    write_video(path, frames, 8)
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
