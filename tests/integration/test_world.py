"""The trained tiny model draws what it is told, and learns what it is taught. Measured from pixels."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cogvx_exp.demo.clips import held_out_scenes
from cogvx_exp.media.video import probe_video
from cogvx_exp.tiny_model.check import check
from cogvx_exp.train import main as train
from tests.conftest import extended

SCENES = held_out_scenes()[:10]


def shares(
    tmp_path: Path, shared_cache: Path, settings: Sequence[str], scenes: int = len(SCENES), **about: object
) -> dict[str, dict[str, float]]:
    found = check(SCENES[:scenes], [*settings, f"cache_dir={shared_cache}"], tmp_path / "check", **about)  # type: ignore[arg-type]
    print(found)
    return found


def test_the_base_follows_captions_it_was_not_trained_on(tmp_path: Path, shared_cache: Path) -> None:
    plain = shares(tmp_path, shared_cache, ["model=tiny"], concept=None)["plain"]
    assert plain["colour"] >= 0.9
    assert plain["shape"] >= 0.9
    assert plain["direction"] >= 0.9
    assert plain["background"] >= 0.9
    assert plain["style"] == 1, "nobody has taught it another one"
    assert 0.85 < plain["sharpness"] < 1.2, "as sharp as the autoencoder can draw"


def test_the_quickstart_teaches_a_style(tmp_path: Path, shared_cache: Path) -> None:
    run = tmp_path / "run"
    assert train([f"run_dir={run}", f"cache_dir={shared_cache}"]) == 0
    assert len(list(run.glob("validation/step-000000/*.mp4"))) == 4
    assert probe_video(next(run.glob("validation/*/*.mp4"))).num_frames == 9
    assert (run / "videos.png").exists()
    assert (run / "videos.webp").exists()
    assert (run / "report" / "index.html").exists()
    found = shares(tmp_path, shared_cache, [f"generate.adapter={run}"], scenes=6, concept="sketch")
    assert found["with sketch"]["concept"] >= 0.8
    assert found["plain"]["concept"] <= 0.1
    assert found["plain"]["colour"] >= 0.7, "what it knew, it still knows"


@pytest.mark.extended
def test_a_new_shape_is_learned(tmp_path: Path, shared_cache: Path) -> None:
    run = tmp_path / "run"
    assert train(["data.concept=cross", "validation=none", f"run_dir={run}", f"cache_dir={shared_cache}"]) == 0
    found = shares(tmp_path, shared_cache, [f"generate.adapter={run}"], concept="cross")
    assert found["with cross"]["concept"] >= 0.8
    assert found["plain"]["concept"] <= 0.1


@pytest.mark.extended
def test_full_fine_tuning_teaches_it_too(tmp_path: Path, shared_cache: Path) -> None:
    run = tmp_path / "run"
    settings = ["method=sft", "steps=150", "validation=none", f"run_dir={run}", f"cache_dir={shared_cache}"]
    assert train(settings) == 0
    found = shares(tmp_path, shared_cache, [f"generate.adapter={run}"], concept="sketch")
    assert found["with sketch"]["concept"] >= 0.8
    assert found["plain"]["concept"] <= 0.1


@pytest.mark.parametrize("trained", [False, extended(True)])
def test_image_to_video_keeps_the_first_frame(tmp_path: Path, shared_cache: Path, trained: bool) -> None:
    run = tmp_path / "run"
    settings = ["model=tiny-i2v"]
    if trained:
        wanted = [
            "task=i2v",
            "steps=200",
            "data.concept=diagonally",
            "validation=none",
            f"run_dir={run}",
            f"cache_dir={shared_cache}",
        ]
        assert train([*settings, *wanted]) == 0
        settings = [f"generate.adapter={run}"]
    concept = "diagonally" if trained else None
    found = shares(tmp_path, shared_cache, settings, scenes=10 if trained else 6, concept=concept, from_image=True)
    assert found["plain"]["first frame"] >= (0.8 if trained else 0.5)
    assert found["plain"]["direction"] >= 0.8
    if not trained:
        assert found["plain"]["shape"] >= 0.9
    if trained:
        assert found["plain"]["concept"] <= 0.1
        assert found["with diagonally"]["concept"] >= 0.8
