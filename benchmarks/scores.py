"""Checks whether the scores of videos rank what is known to be better or worse; writes the tables of docs/scores.md.

python -m benchmarks.scores            # both tables, some minutes on 2 cores
python -m benchmarks.scores --only degraded
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.degraded import DEGRADATIONS, known_clips, measured
from cogvx_exp.config.choices import composed
from cogvx_exp.config.schema import Score
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.demo.clips import training_scenes, with_concept, write_clips
from cogvx_exp.demo.scenes import varied
from cogvx_exp.evaluation.scores.base import build_scores, score_video
from cogvx_exp.evaluation.scores.video import Condition, ScoredVideo

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scores.md"
STAGES = {0: "base", 10: "half-trained", 40: "trained", 520: "over-trained"}
"""Completed steps of the checkpoints that are compared."""
CLIPS, HELD_OUT = 8, 4
"""So few that the model learns them by heart. All have the style: the likeness to clips with and without it would not tell
what was learned."""
SAMPLED = ["validation.num_prompts=4", "validation.num_videos=2", "validation.num_inference_steps=15"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/scores"))
    parser.add_argument("--only", choices=["degraded", "trained"])
    arguments = parser.parse_args()
    if arguments.only != "trained":
        replace("degraded", degraded_table())
    if arguments.only != "degraded":
        replace("trained", trained_table(arguments.work))


def replace(section: str, table: str) -> None:
    """Writes a table between its marks in the page."""
    begin, end = f"<!-- {section} -->\n\n", f"\n<!-- end of {section} -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}{table}{end}{rest.partition(end)[2]}")


def degraded_table() -> str:
    scores = built()
    rows = ["| videos | strength | score | values |", "|---|---|---|---|"]
    for degradation in DEGRADATIONS:
        steps = measured(degradation, scores, known_clips())
        strength = ", ".join(f"{step:g}" for step in degradation.steps)
        for name in (*degradation.rises, *degradation.falls):
            values = [step[name] for step in steps]
            expected = values if name in degradation.rises else [-value for value in values]
            assert expected == sorted(set(expected)), f"{degradation.name}: {name} {values}"
            shown = " → ".join(f"{value:.3g}" for value in values)
            rows.append(f"| {degradation.name} | {strength} | `{name}` | {shown} |")
    return "\n".join(rows) + f"\n\n{cost()}\n"


def cost() -> str:
    """The processor time of one large video."""
    frames = np.random.default_rng(0).integers(0, 256, (49, 480, 720, 3), dtype=np.uint8)
    condition = Condition(frames, Recipe("gray").apply)
    video = ScoredVideo(frames, "", 8.0, frames[0], condition, known_clips())
    started = time.process_time()
    found = score_video(built(), video)
    seconds = time.process_time() - started
    return f"All {len(found)} scores of a video of 49x480x720 together take {seconds:.1f} s on one core."


def built() -> dict:
    settings = composed("validation", "default")["scores"]
    return build_scores({name: Score.model_validate(score) for name, score in settings.items()}, "validation.scores")


def trained_table(work: Path) -> str:
    """Checkpoints of one run on few clips, each scored by the run itself."""
    run, data = work / "run", work / "clips"
    if not data.exists():
        scenes, chance = training_scenes()[: CLIPS + HELD_OUT], random.Random(0)
        write_clips(data, [varied(with_concept(scene, "sketch"), chance) for scene in scenes], (9, 32, 32))
    settings = ["data=files", f"data.root={data}", f"data.holdout={HELD_OUT}", "lr_scheduler=constant", *SAMPLED]
    for step in list(STAGES)[1:]:
        if step in {line["step"] for line in read(run / "scores.jsonl")}:
            continue  # of an earlier call
        call(f"run_dir={run}", "resume=auto", f"steps={step}", "validation.loss_every=null", *settings)
    scores = {line["step"]: line for line in read(run / "scores.jsonl")}
    held_out = {line["step"]: line["loss"] for line in read(run / "held_out.jsonl")}
    names = [name for name in scores[0] if name != "step"]
    rows = [f"| checkpoint | steps | held-out loss | {' | '.join(f'`{name}`' for name in names)} |"]
    rows.append(f"|{'---|' * (len(names) + 3)}")
    for step, stage in STAGES.items():
        loss = f"{held_out[step]:.4f}" if step in held_out else ""
        values = " | ".join(short(scores[step][name]) for name in names)
        rows.append(f"| {stage} | {step} | {loss} | {values} |")
    return "\n".join(rows) + "\n"


def short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def call(*settings: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cogvx_exp.train", *settings], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(settings)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
