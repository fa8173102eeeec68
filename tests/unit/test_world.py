"""What is drawn is seen, so that the measure can be believed."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.conditions import clip_of, follows
from cogvx_exp.demo.clips import FPS, held_out_scenes, make_demo, prompt_of, training_scenes, with_concept
from cogvx_exp.demo.measure import look_at, sharpness
from cogvx_exp.demo.scenes import SHAPES, Scene, all_scenes, draw_scene, varied
from cogvx_exp.media.video import write_video
from cogvx_exp.tiny_model.check import VAE, confusion, reconstructed


def test_every_part_of_a_scene_is_seen() -> None:
    chance = random.Random(0)
    for scene in chance.sample([scene for scene in all_scenes() if scene.style == "plain"], 60):
        seen = look_at(draw_scene(varied(scene, chance), 9, 32, 32))
        assert all(seen.follows(scene).values()), (scene, seen)


def test_a_sketch_is_distinguished() -> None:
    chance = random.Random(0)
    for scene in chance.sample([scene for scene in all_scenes() if scene.style == "plain"], 30):
        sketch = look_at(draw_scene(varied(with_concept(scene, "sketch"), chance), 9, 32, 32))
        assert (sketch.style, sketch.direction) == ("sketch", scene.direction)


def test_nothing_is_seen_in_noise_or_in_a_still_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    assert look_at(noise).direction is None
    assert look_at(noise).style == "plain"
    still = np.repeat(draw_scene(Scene("red", "circle", "left", "black"), 9, 32, 32)[:1], 9, axis=0)
    assert look_at(still).direction is None
    assert look_at(np.zeros((9, 32, 32, 3), dtype=np.uint8)).colour is None


def blurred(frames: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames])


@pytest.mark.parametrize("scene", held_out_scenes()[:3], ids=lambda scene: scene.caption)
def test_sharpness_falls_with_blur(scene: Scene) -> None:
    clip = draw_scene(scene, 9, 32, 32)
    values = [sharpness(blurred(clip, radius)) for radius in (0, 0.5, 1, 2)]
    assert values == sorted(values, reverse=True)
    assert values[3] < 0.6 * values[0]
    assert 0.5 * values[0] < sharpness(reconstructed([scene], VAE)[0]) < 1.1 * values[0]


def test_the_confusion_table_counts_what_was_asked_for_and_drawn(tmp_path: Path) -> None:
    asked = [replace(held_out_scenes()[0], shape=shape) for shape in ("circle", "circle", "square", "square")]
    for number, (scene, drawn) in enumerate(zip(asked, ("circle", "square", "square", None), strict=True)):
        frames = draw_scene(replace(scene, shape=drawn or "circle", radius=0.3 if drawn else 0.0), 9, 32, 32)
        write_video(tmp_path / f"{number:02d}.mp4", frames, FPS)
    none = {"circle": 0, "square": 0, "triangle": 0, "cross": 0, "none": 0}
    assert confusion(asked, tmp_path) == {
        "circle": {**none, "circle": 1, "square": 1},
        "square": {**none, "square": 1, "none": 1},
    }


def test_what_is_asked_for_in_the_check_was_not_trained_on() -> None:
    trained, held_out = ({scene.caption for scene in scenes()} for scenes in (training_scenes, held_out_scenes))
    assert len(held_out) == 64
    assert not trained & held_out
    assert not any(word in caption for caption in trained for word in ("cross", "diagonally"))
    assert {replace(scene, direction="left").shape for scene in training_scenes()} == set(SHAPES[:3])


@pytest.mark.parametrize("concept", ["sketch", "cross", "diagonally"])
def test_the_demo_has_each_scene_with_the_concept_and_without(tmp_path: Path, concept: str) -> None:
    make_demo(tmp_path, 3, concept, (9, 32, 32))
    prompts = (tmp_path / "prompt.txt").read_text().splitlines()
    scenes = {scene.caption: scene for scene in training_scenes()}
    ordinary = [scenes[caption] for caption in prompts[1::2]]
    assert {scene.shape for scene in ordinary} == set(SHAPES[:3]), "three clips show all three"
    assert prompts[::2] == [prompt_of(with_concept(scene, concept)) for scene in ordinary]


@pytest.mark.parametrize("condition", ["first_last", "prefix"])
def test_the_end_of_a_benchmark_clip_does_not_follow_from_its_first_frame(condition: str) -> None:
    scene = Scene("red", "circle", "left", "black", drift=0.1)
    clips = [clip_of(condition, scene, number) for number in range(4)]
    for number, clip in enumerate(clips):
        assert (clip[0] == clips[0][0]).all()
        assert [follows(condition, clip, other, scene) for other in clips] == [number == other for other in range(4)]
    still = np.concatenate([clips[0][:5], np.repeat(clips[0][4:5], 4, axis=0)])
    assert not follows(condition, still, clips[0], scene), "stops after the frames given"
