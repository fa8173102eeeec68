"""Writes scenes as a dataset folder like a user's: mp4 files, prompt.txt, videos.txt."""

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, whole_folder, write_json, write_text
from cogvx_exp.demo.scenes import SHAPES, Scene, all_scenes, draw_scene, varied
from cogvx_exp.media.video import write_video

FPS = 8
ABOUT = "demo.json"
"""Describes the clips generated in a folder."""
TRIGGER = "SKETCH"
"""Trigger word of the style `sketch`."""
CONCEPTS = {"sketch": "style", "cross": "shape", "diagonally": "direction"}
"""Concepts that can be taught, and the part of a scene they belong to."""
HELD_OUT = 64
"""Number of scenes the tiny model was not trained on."""

Size = tuple[int, int, int]
"""Frames, height, width."""


def make_demo(root: Path, clips: int, concept: str, size: Size) -> None:
    """Generates `clips` clips of a concept and the same scenes without it in `root`, unless they exist.

    Raises:
        UserError: the folder contains other clips.

    Args:
        root: the folder.
        clips: number of clips of each kind.
        concept: sketch, cross or diagonally; none: ordinary clips only.
        size: frames, height and width.
    """
    wanted = {"clips": clips, "concept": concept, "size": list(size)}
    if (root / "videos.txt").exists():
        drawn = read_json(root / ABOUT) if (root / ABOUT).exists() else "clips of another kind"
        if drawn != wanted:
            raise UserError(f"data.root={root} has {drawn}, but this run needs {wanted}; choose a new folder")
        return
    # A generator of its own: global seeds must not change the demo.
    chance = random.Random(0)
    ordinary = list(itertools.islice(itertools.cycle(_shapes_in_turn(training_scenes())), clips))
    # Pairs of the same scene with and without the concept, so that the trigger word is all that tells them apart.
    new = [[with_concept(scene, concept)] if concept != "none" else [] for scene in ordinary]
    scenes = [scene for pair in zip(new, ordinary, strict=True) for scene in (*pair[0], pair[1])]
    with whole_folder(root) as tmp:
        write_clips(tmp, [varied(scene, chance) for scene in scenes], size)
        write_json(tmp / ABOUT, wanted)


def write_clips(root: Path, scenes: Iterable[Scene], size: Size) -> None:
    """Writes a `data=files` folder."""
    captions, names = [], []
    for index, scene in enumerate(scenes):
        names.append(f"videos/{index:04d}.mp4")
        captions.append(prompt_of(scene))
        write_video(root / names[-1], draw_scene(scene, *size), FPS)
    write_text(root / "prompt.txt", "\n".join(captions) + "\n")
    write_text(root / "videos.txt", "\n".join(names) + "\n")


def prompt_of(scene: Scene) -> str:
    """The caption, with the trigger word of the style."""
    return f"{TRIGGER} {scene.caption}" if scene.style == "sketch" else scene.caption


def with_concept(scene: Scene, concept: str) -> Scene:
    """The scene with a concept that the tiny model was not trained on."""
    part: dict[str, Any] = {CONCEPTS[concept]: concept}
    return replace(scene, **part)


def training_scenes() -> list[Scene]:
    """The scenes that the tiny model was trained on."""
    return _shuffled()[HELD_OUT:]


def held_out_scenes() -> list[Scene]:
    """64 scenes of the same kind that it was not trained on."""
    return _shuffled()[:HELD_OUT]


def _shapes_in_turn(scenes: list[Scene]) -> list[Scene]:
    """Reordered, so that the first few show all shapes."""
    kinds = [[scene for scene in scenes if scene.shape == shape] for shape in SHAPES]
    return [scene for some in itertools.zip_longest(*kinds) for scene in some if scene]


def _shuffled() -> list[Scene]:
    scenes = [scene for scene in all_scenes() if not {scene.style, scene.shape, scene.direction} & set(CONCEPTS)]
    random.Random(0).shuffle(scenes)
    return scenes
