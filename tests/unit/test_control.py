"""Control videos: where they come from, and how they are matched with clips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.control.reading import ControlFile, control_source, probe_control, read_control, read_with_control
from cogvx_exp.data.control.recipes import recipe_of
from cogvx_exp.data.dataset import Dataset, load_dataset
from cogvx_exp.data.frames import FrameChoice, choose_frames
from cogvx_exp.data.identity import dataset_changes, identity_of
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.evaluation.conditioned import condition_frames
from cogvx_exp.evaluation.requests import controls
from cogvx_exp.media.video import write_video
from cogvx_exp.tasks.base import build_task
from tests.control_data import HEIGHT, WIDTH, boxes, write_dataset
from tests.entry import train
from tests.footage import PoolHere

BUCKET = Bucket(9, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("written"), clips=3)


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(written, tmp_path / "data")


@pytest.fixture(autouse=True)
def _pool_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvx_exp.data.index.examine.DecodingPool", PoolHere)


@pytest.fixture
def load(make_job, tmp_path: Path):
    def read(root: Path, *settings: str) -> Dataset:
        job = make_job("task=control", f"data.root={root}", *settings)
        return load_dataset(job.data, tmp_path / "cache")

    return read


def as_table(root: Path) -> None:
    with (root / "dataset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "control"])
        writer.writerows([f"videos/{number}.mp4", "a box", f"controls/{number}.mp4"] for number in range(3))


def as_lines(root: Path) -> None:
    rows = [{"video": f"videos/{n}.mp4", "caption": "a box", "control": f"controls/{n}.mp4"} for n in range(3)]
    (root / "dataset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_folder(root: Path) -> None:
    for number in range(3):
        shutil.move(root / f"controls/{number}.mp4", root / f"videos/{number}.control.mp4")
        (root / f"videos/{number}.txt").write_text("a box")


@pytest.mark.parametrize(
    ("form", "write"), [("files", None), ("csv", as_table), ("jsonl", as_lines), ("folder", as_folder)]
)
def test_every_form_of_dataset_has_control_videos(form: str, write, root: Path, load) -> None:
    if write:
        write(root)
    dataset = load(root, f"data={form}")
    assert not dataset.issues
    name = "videos/{}.control.mp4" if form == "folder" else "controls/{}.mp4"
    assert [clip.control.path for clip in dataset.clips if clip.control] == [
        str(root / name.format(n)) for n in range(3)
    ]


def test_control_videos_are_not_clips_of_other_tasks(root: Path, make_job, tmp_path: Path) -> None:
    as_folder(root)
    job = make_job("data=folder", f"data.root={root}")
    dataset = load_dataset(job.data, tmp_path / "cache")
    assert len(dataset.clips) == 3
    assert not dataset.issues
    assert all(clip.control is None for clip in dataset.clips)


def image(root: Path) -> str:
    Image.fromarray(boxes(0)[0]).save(root / "controls/0.png")
    return "controls/0.png"


def too_short(root: Path) -> str:
    write_video(root / "controls/short.mp4", boxes(0)[:12], 8)
    return "controls/short.mp4"


def too_wide(root: Path) -> str:
    write_video(root / "controls/wide.mp4", boxes(0)[:, :, :32], 8)
    return "controls/wide.mp4"


def damaged(root: Path) -> str:
    (root / "controls/damaged.mp4").write_bytes(b"no video")
    return "controls/damaged.mp4"


@pytest.mark.parametrize(
    ("control", "problem"),
    [
        (lambda root: "controls/none.mp4", "does not exist"),
        (lambda root: "/etc/passwd", "lies outside data.root"),
        (damaged, "cannot be decoded|is not a video|cannot be read"),
        (image, "is an image, but a control video is needed"),
        (too_short, "ends before the last frame of its clip, at 2.00 s"),
        (too_wide, "is 32x32, another aspect ratio than its clip"),
    ],
)
def test_what_does_not_fit_its_clip_is_in_the_table(control, problem: str, root: Path, load) -> None:
    lines = (root / "controls.txt").read_text().splitlines()
    (root / "controls.txt").write_text("\n".join([control(root), *lines[1:]]))
    dataset = load(root, "data=files", "data.max_num_frames=9")
    ((row, what),) = [(issue.row, issue.what) for issue in dataset.issues]
    assert row == 1
    assert any(part in what for part in problem.split("|"))
    assert len(dataset.clips) == 2


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (None, "controls.txt does not exist; check data.root and data.control_column"),
        (2, "controls.txt has 2 videos and videos.txt has 3"),
    ],
)
def test_a_missing_or_short_list_is_refused(lines: int | None, problem: str, root: Path, load) -> None:
    text = (root / "controls.txt").read_text().splitlines()
    (root / "controls.txt").unlink()
    if lines:
        (root / "controls.txt").write_text("\n".join(text[:lines]))
    with pytest.raises(UserError, match=problem):
        load(root, "data=files")


def test_frames_are_matched_by_time(root: Path) -> None:
    """A control video of twice the rate and half the size gives the frames of the same moments."""
    clip, fast = root / "videos/1.mp4", root / "controls/fast.mp4"
    shades = np.arange(0, 4 * 34, 4, dtype=np.uint8)
    write_video(fast, np.broadcast_to(shades[:, None, None, None], (34, HEIGHT // 2, WIDTH // 2, 3)).copy(), 16)
    control = ControlFile(str(fast), probe_control(str(fast)))
    choice = FrameChoice(9, 0, 0, None)
    read = read_with_control(str(clip), choice, BUCKET, ResizeSpec("center"), None, control)
    assert read.control is not None
    assert read.control.shape == read.clip.shape
    np.testing.assert_allclose(read.control.mean((1, 2, 3)), shades[::4][:9], atol=3)


def of_a_part(root: Path, **values: object) -> None:
    """Writes a manifest with a part of a clip, with a control and a mask of half its size and twice its rate."""
    frames = np.zeros((34, HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    frames[:, :, WIDTH // 4 :] = np.arange(0, 4 * 34, 4, dtype=np.uint8)[:, None, None, None]
    write_video(root / "half.mp4", frames, 16)
    row = {"video": "videos/1.mp4", "caption": "a box", "control": "half.mp4", "mask": "half.mp4"}
    (root / "dataset.jsonl").write_text(json.dumps(row | values))


def test_a_part_of_a_video_has_the_same_part_of_its_control(root: Path, load) -> None:
    """In time, and in space though it has another size."""
    of_a_part(root, start=1.0, crop=[WIDTH // 2, 8, WIDTH // 2, 16])
    ((clip,), issues) = (dataset := load(root, "data=jsonl")).clips, dataset.issues
    assert not issues
    read = read_with_control(
        clip.row.path, FrameChoice(9, 0, 0, None), BUCKET, ResizeSpec("center"), None, clip.control, clip.row.window
    )
    assert read.control is not None
    np.testing.assert_allclose(read.control.mean((1, 2, 3)), np.arange(64, 132, 8), atol=3)
    write_video(root / "half.mp4", boxes(0)[:16], 8)
    (issue,) = load(root, "data=jsonl").issues
    assert issue.what == "lasts 2.00 s and ends before the last frame of its clip, at 2.00 s"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.control=gray"],
        ["task.condition=first_last"],
        ["task.condition=prefix"],
        ["task.condition=mask"],
        ["task.condition=mask", "task.masks=files"],
    ],
    ids=" ".join,
)
def test_validation_shows_the_conditions_of_training(settings: list[str], root: Path, load, make_job) -> None:
    of_a_part(root, start=1.0, end=2.125, crop=[4, 4, 36, 24])
    (clip,) = load(root, "data=jsonl", *settings).clips
    job = make_job("task=control", "data=jsonl", f"data.root={root}", *settings)
    task, choice, fit = build_task(job.task), choose_frames(job.data, 9), ResizeSpec("center")
    control = control_source(job.data, clip.control)
    read = read_with_control(clip.row.path, choice, clip.bucket, fit, clip.info, control, clip.row.window)
    made = [item.video(read) for item in task.cached.values() if item.video]
    (given,) = controls(job, task, [clip], 1)
    shown = condition_frames(given.control or "", given.control_times, clip.bucket, "center")
    assert any((shown == frames).all() for frames in made)


def test_computed_controls_have_the_crop_and_the_flip_of_the_clip(root: Path) -> None:
    path, choice = str(root / "videos/1.mp4"), FrameChoice(9, 0, 0, None)
    for flip in (False, True):
        fit = ResizeSpec("random", (0.2, 0.9), flip)
        read = read_with_control(path, choice, Bucket(9, 16, 32), fit, None, recipe_of("gray", {}))
        assert read.control is not None
        np.testing.assert_allclose(read.control[..., 0], read.clip @ [0.299, 0.587, 0.114], atol=0.51)


def test_an_image_is_a_still_control_when_told_so(root: Path, load) -> None:
    before = identity_of(load(root, "data=files"))
    (root / "controls.txt").write_text("\n".join([image(root), "controls/1.mp4", "controls/2.mp4"]))
    dataset = load(root, "data=files", "data.control_images=true")
    assert dataset_changes(before, identity_of(dataset)), "a resumed run tells of it"
    control = dataset.clips[0].control
    assert control
    frames = read_control(control.path, 9, None, BUCKET, ResizeSpec("center"))
    assert (frames == boxes(0)[0]).all()


REFUSED = {
    "data.control=canny": "task=t2v uses no control videos",
    "task=control task.condition=first data.control=canny": "task.condition=first uses no control videos",
    "task=control": "data=demo has no such videos",
    "task=control data.control=masks": "is for task.condition=mask task.masks=files",
    "task=control task.image_scale=divide": "is only for task.condition=first",
    "task=control +data.control_kwargs.low=5": "takes no arguments",
    "task=control task.condition=prefix task.prefix_frames=[1,9]": "such as [1,5]",
    "task=control task.condition=prefix task.prefix_frames=[2,5]": "of the form 4N+1",
    "task=control data=latents data.root=x data.control=gray": "data=latents has no frames",
    "task=control data=latents data.root=x task.condition=mask": "data=latents has no frames to hide",
    "task=control validation.controls=nowhere.mp4 data.control=gray": "the control video nowhere.mp4 does not exist",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_settings_that_do_not_fit_are_refused(settings: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(settings.split()) == 2
    assert REFUSED[settings] in " ".join(capsys.readouterr().err.split())
