"""Conditions that are computed from frames: recipes, and what hides a part of a clip."""

import numpy as np
import pytest

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.hiding import first_last, masked, prefix, randomly_masked
from cogvx_exp.data.control.recipes import Recipe, parse_control, recipe_of
from tests.control_data import FRAMES, HEIGHT, WIDTH, boxes


@pytest.mark.parametrize("name", ["canny", "gray", "blur", "downscale"])
def test_recipes_change_frames_and_take_arguments(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    made = recipe_of(name, {}).apply(frames)
    assert made.shape == frames.shape
    assert not (made == frames).all()
    other = {"canny": {"low": 300, "high": 900}, "blur": {"sigma": 0.2}, "downscale": {"factor": 2}}.get(name)
    if other:
        assert not (recipe_of(name, other).apply(frames) == made).all()
        assert recipe_of(name, other).made_from() != recipe_of(name, {}).made_from()
    with pytest.raises(UserError, match=f"{name} has no argument nonsense"):
        recipe_of(name, {"nonsense": 1}).function()


def test_own_functions_are_named_by_import_path() -> None:
    frames = boxes(1)
    assert (Recipe("numpy.flip", (("axis", 2),)).apply(frames) == frames[:, :, ::-1]).all()
    with pytest.raises(UserError, match=r"data.control=depth is none of files, masks, blur, canny, downscale, gray"):
        recipe_of("depth", {}).function()
    with pytest.raises(UserError, match="returned"):
        recipe_of("numpy.mean", {}).apply(frames)


def test_names_of_conditions_are_read_back() -> None:
    recipe = recipe_of("canny", {"low": 50, "high": 1.5})
    assert parse_control(f"{recipe} of a folder/clip of me.mp4") == (recipe, "a folder/clip of me.mp4")
    assert parse_control("best of show.mp4") == (None, "best of show.mp4")
    assert parse_control("video of x.mp4") == (Recipe("video"), "x.mp4")


def test_what_is_hidden_is_grey_and_the_rest_is_the_clip() -> None:
    frames = np.random.default_rng(0).integers(0, 127, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    start = prefix(frames, 5)
    assert (start[:5] == frames[:5]).all()
    assert (start[5:] == 128).all()
    shown = randomly_masked(frames, 3)
    assert ((shown == frames) | (shown == 128)).all()
    hidden = (shown == 128).all(-1).mean()
    assert 0.01 < hidden < 0.9
    assert (randomly_masked(frames, 3) == shown).all()
    assert not (randomly_masked(frames, 4) == shown).all()
    assert not (randomly_masked(frames[::-1], 3)[::-1] == shown).all()
    mask = np.zeros_like(frames)
    mask[:, :10] = 255
    assert (masked(frames, mask)[:, :10] == 128).all()
    assert (masked(frames, mask)[:, 10:] == frames[:, 10:]).all()


@pytest.mark.parametrize("count", [1, 5, 9, 17])
def test_the_last_frame_fills_the_last_latent(count: int) -> None:
    frames = np.random.default_rng(0).integers(0, 127, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    shown = first_last(frames)
    assert (shown[0] == frames[0]).all()
    assert (shown[1:][-4:] == frames[-1]).all()
    assert (shown[1:-4] == 128).all()
