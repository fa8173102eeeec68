"""Checks whether training follows its conditions: fine-tunes the tiny models and measures their videos.

    python benchmarks/conditions.py            # writes a section of docs/learning.md, about 40 minutes on 2 cores
    python benchmarks/conditions.py --only prefix      # only this row

Captions name colour, shape and background, but not the motion, so the motion can only come from the condition.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.learning import PAGE, call
from cogvx_exp.demo.clips import FPS, held_out_scenes, training_scenes
from cogvx_exp.demo.measure import look_at, middles
from cogvx_exp.demo.scenes import Scene, draw_scene, varied
from cogvx_exp.media.video import read_video, write_video

SIZE = (9, 96, 96)
SHOWN = 5
"""Frames of a prefix."""
NEAR = 0.1
"""Largest mean distance between two paths, in frame widths, that counts as the same."""
START = "\n## Conditions\n"
TEXT = """
Written by `python benchmarks/conditions.py`. Each row trains `task=control` on {clips} clips whose captions do not name the
motion, then samples unseen prompts with the condition of an unseen clip, with the trained model and with its base
(`generate.strength=0`). The first frame alone must not tell the rest: for `first_last`, the shape comes in from one side and
leaves the centre in any of four directions; for `prefix`, it starts in the centre.

| `task.condition=` | base | measured | steps of 8 clips | prompts | trained | not trained |
|---|---|---|---|---|---|---|
"""
MEASURED = {
    "video": "the shape is where the control video has it, in the colour of the prompt",
    "first_last": "in the last frame, the shape is where the last frame given has it",
    "prefix": f"after the {SHOWN} frames given, the shape goes on in their direction, at least half as far as in the clip",
    "mask": "the shape is where the clip has it, though partly hidden",
}
OUTWARD = ("left", "right", "up", "down")
ENDS = ("first_last", "prefix")
"""Conditions that are measured by the end of the video."""
MODELS = {"video": "tiny"}
SETTINGS = {"prefix": [f"task.prefix_frames=[{SHOWN},{SHOWN}]"]}


def caption(scene: Scene) -> str:
    return f"a {scene.colour} {scene.shape} on a {scene.background} background"


def silhouette(scene: Scene) -> np.ndarray:
    """White where the shape is, black elsewhere: it has the motion and not the colours."""
    plain = replace(scene, colour="white", background="black", style="plain")
    return draw_scene(plain, *SIZE)


def clip_of(condition: str, scene: Scene, number: int) -> np.ndarray:
    """The clip of a scene; where the condition has the start of the clip, it tells as little as possible of the rest."""
    if condition not in ENDS:
        return draw_scene(scene, *SIZE)
    frames, *size = SIZE
    centred = replace(scene, drift=0.0)
    entering = draw_scene(centred, 5, *size)[: 2 if condition == "first_last" else 0]
    rest = frames - len(entering)
    leaving = replace(centred, direction=OUTWARD[number % len(OUTWARD)])
    return np.concatenate([entering, draw_scene(leaving, 2 * rest - 1, *size)[rest - 1 :]])


def write_clips(root: Path, scenes: list[Scene], condition: str) -> Path:
    if not (root / "prompts.txt").exists():
        for number, scene in enumerate(scenes):
            write_video(root / f"videos/{number:03d}.mp4", clip_of(condition, scene, number), FPS)
            write_video(root / f"controls/{number:03d}.mp4", silhouette(scene), FPS)
        for kind in ("videos", "controls"):
            names = [f"{kind}/{number:03d}.mp4" for number in range(len(scenes))]
            (root / f"{kind}.txt").write_text("".join(f"{name}\n" for name in names))
            (root / f"{kind}-here.txt").write_text("".join(f"{root.resolve()}/{name}\n" for name in names))
        for name in ("prompt", "prompts"):
            (root / f"{name}.txt").write_text("".join(f"{caption(scene)}\n" for scene in scenes))
    return root


def follows(condition: str, video: np.ndarray, clip: np.ndarray, scene: Scene) -> bool:
    """Whether a video does what the condition says, which was made from the clip."""
    if look_at(video).colour != scene.colour:
        return False
    first = {"prefix": SHOWN - 1, "first_last": len(video) - 1}.get(condition, 0)
    found, wanted = (middles(frames[first:]) for frames in (video, clip))
    if found is None or wanted is None:
        return False
    if condition == "prefix":
        return goes_on(found[-1] - found[0], wanted[-1] - wanted[0])
    return float(np.abs(found - wanted).sum(1).mean()) < NEAR


def goes_on(moved: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a movement has the wanted direction, to 45 degrees, and at least half of the wanted length."""
    length = np.hypot(*wanted)
    along = float(moved @ wanted / length)
    return along > length / 2 and along > np.hypot(*moved) * np.sqrt(0.5)


def share(condition: str, run: Path, folder: Path, data: Path, scenes: list[Scene], strength: int) -> float:
    given = "controls-here" if condition == "video" else "videos-here"
    output = folder / f"strength-{strength}"
    if len(list(output.glob("*.mp4"))) < len(scenes):
        settings = [f"generate.prompts='{data}/prompts.txt'", f"generate.controls='{data}/{given}.txt'"]
        settings += [f"generate.output_dir='{output}'", f"generate.strength={strength}"]
        call("cogvx_exp.generate", f"generate.adapter='{run}'", *settings)
    clips = [read_video(data / f"videos/{number:03d}.mp4") for number in range(len(scenes))]
    videos = [read_video(path) for path in sorted(output.glob("*.mp4"))]
    small = [resized(clip, videos[0].shape[1]) for clip in clips]
    good = [follows(condition, *item) for item in zip(videos, small, scenes, strict=True)]
    return sum(good) / len(good)


def resized(clip: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size))) for frame in clip])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/conditions"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="*", default=list(MEASURED))
    arguments = parser.parse_args()
    chance = random.Random(1)
    trained = [varied(replace(scene, style="plain"), chance) for scene in training_scenes()[: arguments.clips]]
    unseen = [varied(replace(scene, style="plain"), chance) for scene in held_out_scenes()[: arguments.prompts]]
    rows = known_rows()
    for condition in arguments.only:
        folder, model = arguments.work / condition, MODELS.get(condition, "tiny-i2v")
        run, data = folder / "run", write_clips(folder / "data", trained, condition)
        held_out = write_clips(folder / "unseen", unseen, condition)
        if not (run / "summary.json").exists():
            settings = [f"model={model}", "task=control", f"task.condition={condition}", *SETTINGS.get(condition, [])]
            settings += [
                "data=files",
                f"data.root={data}",
                "batch_size=8",
                f"steps={arguments.steps}",
                "validation=none",
            ]
            call("cogvx_exp.train", *settings, f"run_dir={run}", "resume=auto", "data.workers=0")
        shares = [share(condition, run, folder, held_out, unseen, strength) for strength in (1, 0)]
        cells = [f"`{condition}`", f"`{model}`", MEASURED[condition], arguments.steps, arguments.prompts]
        rows[condition] = "| {} | {} | {} | {} | {} | {:.0%} | {:.0%} |\n".format(*cells, *shares)
        print(rows[condition], flush=True)
    table = "".join(rows[condition] for condition in MEASURED if condition in rows)
    text = TEXT.format(clips=arguments.clips)
    PAGE.write_text(PAGE.read_text().partition(START)[0] + START + text + table)


def known_rows() -> dict[str, str]:
    """The existing rows of the page, by condition."""
    lines = PAGE.read_text().partition(START)[2].splitlines(keepends=True)
    return {line.split("`")[1]: line for line in lines if line.startswith("| `") and "=" not in line.split("`")[1]}


if __name__ == "__main__":
    main()
