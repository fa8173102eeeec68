"""The animated picture of a run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.core.files import write_json
from cogvx_exp.media.video import write_video
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.pictures.preview import GAP, LINE, SIDE, write_preview

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 150, 20)


def put(path: Path, colour: tuple[int, int, int], frames: int, prompt: str = "a prompt") -> None:
    video = np.full((frames, 32, 64, 3), colour, np.uint8)
    for index, frame in enumerate(video):
        frame[:8, 6 * index : 6 * index + 6] = 255  # frames that are equal would be stored as one
    write_video(path.with_suffix(".mp4"), video, 8)
    write_json(path.with_suffix(".json"), {"prompt": prompt})


def shown(frame: Image.Image, column: int) -> tuple[float, ...]:
    """The colour in the middle of a video of the first prompt."""
    return frame.getpixel((GAP + column * (SIDE + GAP) + SIDE // 2, GAP + LINE + SIDE // 4))  # type: ignore[return-value]


def test_it_plays_what_was_sampled_before_and_after_training(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("a", "b", "c"):
        put(folder.validation(0) / name, RED, frames=8, prompt="a long prompt " * 9)
        put(folder.validation(5) / name, GREEN, frames=8)
        put(folder.validation(10) / name, BLUE, frames=5, prompt="a long prompt " * 9)
    write_preview(folder)
    preview = Image.open(tmp_path / "videos.webp")
    assert (preview.n_frames, preview.info["loop"]) == (8, 0)  # type: ignore[attr-defined]
    assert preview.width == 2 * (2 * SIDE + GAP) + 6 * GAP + GAP
    for index in range(8):
        preview.seek(index)
        frame = preview.convert("RGB")
        assert shown(frame, 0) == pytest.approx(RED, abs=25)
        assert shown(frame, 1) == pytest.approx(BLUE, abs=25), "a shorter video shows its last frame"
    assert preview.info["duration"] == 125, "milliseconds"


def test_without_videos_from_before_there_is_none(tmp_path: Path) -> None:
    put(RunFolder(tmp_path).validation(10) / "a", BLUE, frames=2)
    write_preview(RunFolder(tmp_path))
    assert not (tmp_path / "videos.webp").exists()
