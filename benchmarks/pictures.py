"""Makes the pictures of the documentation with the tiny model: the quickstart, its settings, the report of a sweep.

python -m benchmarks.pictures               # what is in --work is not run again
python -m benchmarks.pictures --only knobs

quickstart.webp  the quickstart's videos before and after training (RUN/videos.webp)
knobs.png        a video with several strengths, guidance scales and denoising steps
report.png       the page of a sweep of four runs, in a headless Chromium
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cogvx_exp.generate import main as generate
from cogvx_exp.media.video import spread_frames
from tests.pages import browser

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROMPT = "SKETCH a red square moving left on a grey background"
KNOBS = {
    "generate.strength": ("strength of the LoRA", [0, 0.25, 0.5, 0.75, 1, 1.25]),
    "generate.guidance_scale": ("guidance", [1, 1.5, 2, 3, 5, 8]),
    "generate.num_inference_steps": ("denoising steps", [1, 2, 4, 8, 16, 30]),
}
SWEEP = ["-m", "method=lora,lokr", "optim.lr=5e-4,2e-3", "data.holdout=4", "validation.loss_every=50"]
PAGE = {"width": 1100, "height": 1500}
"""Part of the report that is shown, in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("outputs/pictures"))
    parser.add_argument("--only", choices=["quickstart", "knobs", "report"])
    arguments = parser.parse_args()
    draw = {"quickstart": quickstart, "knobs": knobs, "report": report}
    for name in [arguments.only] if arguments.only else draw:
        draw[name](arguments.work.resolve())


def quickstart(work: Path) -> None:
    shutil.copyfile(_quickstart_run(work) / "videos.webp", DOCS / "quickstart.webp")


def knobs(work: Path) -> None:
    run = _quickstart_run(work)
    figure, axes = plt.subplots(len(KNOBS), 6, figsize=(9, 5.2), dpi=110, layout="constrained")
    for row, (setting, (label, values)) in zip(axes, KNOBS.items(), strict=True):
        for cell, value in zip(row, values, strict=True):
            cell.imshow(_middle_frame(run, f"{setting}={value}"), interpolation="nearest")
            cell.set_title(f"{label} {value}" if value == values[0] else str(value), loc="left", fontsize=8.5)
            cell.axis("off")
    figure.suptitle(PROMPT, fontsize=10, x=0.01, ha="left")
    figure.savefig(DOCS / "knobs.png")


def report(work: Path) -> None:
    sweep = work / "sweep"
    if not sweep.exists():
        _run("cogvx_exp.train", *SWEEP, f"hydra.sweep.dir={sweep}")
    _run("cogvx_exp.report", str(sweep))
    with browser() as chromium:
        page = chromium.new_page(viewport=PAGE)  # type: ignore[arg-type]
        page.goto((sweep / "report" / "index.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")  # videos load when they come into view
        page.wait_for_timeout(3000)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=DOCS / "report.png")


def _quickstart_run(work: Path) -> Path:
    """The quickstart, trained unless that is done."""
    run = work / "quickstart"
    if not (run / "summary.json").exists():
        _run("cogvx_exp.train", f"run_dir={run}", "resume=auto")
    return run


def _middle_frame(run: Path, setting: str) -> np.ndarray:
    with TemporaryDirectory() as folder:
        prompt = f"generate.prompts='{PROMPT}'"
        if generate([f"generate.adapter={run}", prompt, setting, f"generate.output_dir={folder}"]):
            sys.exit(2)
        (path,) = Path(folder).glob("*.mp4")
        return spread_frames(path, 3)[1]


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
