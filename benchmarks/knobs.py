"""What strength, guidance and the number of steps do to a video: draws docs/knobs.png from a quickstart run.

python benchmarks/knobs.py outputs/RUN
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cogvx_exp.generate import main as generate
from cogvx_exp.media.video import open_video

PROMPT = "a red square moving left on a grey background"
KNOBS = {
    "generate.strength": ("strength of the LoRA", [0, 0.25, 0.5, 0.75, 1, 1.25]),
    "generate.guidance_scale": ("guidance", [1, 1.5, 2, 3, 5, 8]),
    "generate.num_inference_steps": ("denoising steps", [1, 2, 4, 8, 16, 30]),
}


def main() -> None:
    run = sys.argv[1]
    figure, axes = plt.subplots(len(KNOBS), 6, figsize=(9, 5.2), dpi=110, layout="constrained")
    for row, (setting, (label, values)) in zip(axes, KNOBS.items(), strict=True):
        for cell, value in zip(row, values, strict=True):
            cell.imshow(middle_frame(run, f"{setting}={value}"), interpolation="nearest")
            cell.set_title(f"{label} {value}" if value == values[0] else str(value), loc="left", fontsize=8.5)
            cell.axis("off")
    figure.suptitle(f"SKETCH {PROMPT}", fontsize=10, x=0.01, ha="left")
    figure.savefig(Path(__file__).resolve().parents[1] / "docs" / "knobs.png")


def middle_frame(run: str, setting: str) -> np.ndarray:
    with TemporaryDirectory() as folder:
        prompt = f"generate.prompts='SKETCH {PROMPT}'"
        if generate([f"generate.adapter={run}", prompt, setting, f"generate.output_dir={folder}"]):
            sys.exit(2)
        (path,) = Path(folder).glob("*.mp4")
        video = open_video(str(path))
        return next(video.frames([len(video.starts) // 2]))


if __name__ == "__main__":
    main()
