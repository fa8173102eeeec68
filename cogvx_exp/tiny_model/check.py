"""`python -m cogvx_exp.tiny_model.check`: do videos of the tiny model, or of a run based on it, show what prompts say?

Samples 64 prompts unseen by the base through `cogvx_exp.generate`, and classifies the pixels of the videos.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_json, write_text
from cogvx_exp.demo.clips import CONCEPTS, HELD_OUT, held_out_scenes, prompt_of, with_concept
from cogvx_exp.demo.measure import look_at
from cogvx_exp.demo.scenes import Scene, draw_scene
from cogvx_exp.generate import main as generate
from cogvx_exp.media.video import open_video

KEPT = 0.08
"""Maximum mean difference, of 1, between a video's first frame and its start image."""

Shares = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the accuracies and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cogvx_exp.tiny_model.check", description=__doc__)
    parser.add_argument("--run", type=Path, help="a run based on the tiny model; default: the tiny model itself")
    parser.add_argument("--concept", choices=CONCEPTS, help="the concept it was taught")
    parser.add_argument("--task", choices=("t2v", "i2v"), default="t2v")
    parser.add_argument("--prompts", type=int, choices=range(1, HELD_OUT + 1), default=HELD_OUT, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("outputs/tiny-model-check"))
    parser.add_argument("settings", nargs="*", help="settings of cogvx_exp.generate")
    arguments = parser.parse_args(argv)
    scenes = held_out_scenes()[: arguments.prompts]
    settings = [*arguments.settings, *([f"generate.adapter='{arguments.run}'"] if arguments.run else [])]
    if not arguments.run:
        settings.append("model=tiny-i2v" if arguments.task == "i2v" else "model=tiny")
    try:
        shares = check(scenes, settings, arguments.output, arguments.concept, arguments.task == "i2v")
    except UserError as error:
        print(f"cogvx_exp.tiny_model.check: {error}", file=sys.stderr)
        return 2
    write_json(arguments.output / "shares.json", shares)
    console.print(_table(shares))
    return 0


def check(
    scenes: Sequence[Scene], settings: Sequence[str], output: Path, concept: str | None, from_image: bool = False
) -> dict[str, Shares]:
    """Samples the scenes' prompts and classifies the videos.

    Args:
        scenes: scenes to sample.
        settings: settings of `cogvx_exp.generate`.
        output: folder for the videos.
        concept: if given, prompts are also sampled with it.
        from_image: whether videos start from the scene's first frame.

    Returns:
        For `plain` prompts, and those `with` the concept: the fraction of videos that show each part of their prompt,
        and
            as `concept` the fraction that shows the concept, requested or not.

    Raises:
        UserError: sampling failed.
    """
    asked = {"plain": list(scenes)}
    if concept:
        asked["with " + concept] = [with_concept(scene, concept) for scene in scenes]
    return {name: _share(some, settings, output / name, concept, from_image) for name, some in asked.items()}


def _share(scenes: list[Scene], settings: Sequence[str], folder: Path, concept: str | None, from_image: bool) -> Shares:
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "prompts.txt", "".join(f"{prompt_of(scene)}\n" for scene in scenes))
    command = [*settings, f"generate.prompts='{folder}/prompts.txt'", f"generate.output_dir='{folder}'"]
    if from_image:
        for number, scene in enumerate(scenes):
            Image.fromarray(draw_scene(scene, 9, 32, 32)[0]).save(folder / f"{number:02d}.png")
        write_text(folder / "images.txt", "".join(f"{folder}/{number:02d}.png\n" for number in range(len(scenes))))
        command.append(f"generate.images='{folder}/images.txt'")
    # Through the entry point: what is measured is what a user gets.
    if generate(command):
        raise UserError("the videos could not be sampled; see above")
    found: dict[str, list[bool]] = {}
    for path, scene in zip(sorted(folder.glob("*.mp4")), scenes, strict=True):
        video = open_video(str(path))
        frames = np.stack(list(video.frames(range(len(video.starts)))))
        seen = look_at(frames)
        shown = seen.follows(scene)
        if concept:
            shown["concept"] = getattr(seen, CONCEPTS[concept]) == concept
        if from_image:
            image = np.asarray(Image.open(path.with_name(f"{path.name[:2]}.png")), dtype=float)
            shown["first frame"] = bool(np.abs(frames[0] - image).mean() / 255 < KEPT)
        for name, good in shown.items():
            found.setdefault(name, []).append(good)
    return {name: round(sum(good) / len(good), 3) for name, good in found.items()}


def _table(shares: dict[str, Shares]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("prompts")
    names = list(dict.fromkeys(name for some in shares.values() for name in some))
    for name in names:
        table.add_column(name, justify="right")
    for prompts, some in shares.items():
        table.add_row(prompts, *(f"{some[name]:.0%}" if name in some else "" for name in names))
    return table


if __name__ == "__main__":
    sys.exit(main())
