"""Long videos in, clips out: cuts to the frame, and nothing that is not worth training on."""

import errno
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cogvx_exp.config.schema import Split
from cogvx_exp.footage.journal import Journal
from cogvx_exp.footage.split.clips import divide, find_clips
from cogvx_exp.footage.split.scan import scan_video
from cogvx_exp.media.picture import Geometry
from cogvx_exp.media.timeline import Timeline
from cogvx_exp.media.video import open_video
from tests.footage import HEIGHT, RATE, WIDTH, PoolHere, black, film, frame_ranges, rows, scene, with_bars
from tests.prepare_command import prepare

LENGTHS = (61, 75, 52, 98)
SPLIT = Split(
    dataset_file="dataset.jsonl", detector="adaptive", threshold=None, seconds=[0.4, 10], black=24, flash=40, still=0.2,
    crop_bars=True, write=False, clips_dir="clips", timeout=60,
)  # fmt: skip


def split_of(path: Path, **changes: object) -> tuple[list[tuple[int, int]], dict[str, float]]:
    """Frames of the clips, and the seconds that are dropped."""
    settings = SPLIT.model_copy(update=changes)
    found = find_clips(scan_video(str(path), settings), settings)
    return [(round(clip["start"] * RATE), round(clip["end"] * RATE)) for clip in found.clips], found.dropped


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes."""
    folder = tmp_path_factory.mktemp("known")
    return film(folder / "film.mp4", *(scene(seed, count) for seed, count in enumerate(LENGTHS)))


@pytest.mark.parametrize(
    ("detector", "threshold"), [("adaptive", None), ("content", None), ("hash", None), ("histogram", 0.02)]
)
def test_cuts_are_found_to_the_frame(detector: str, threshold: float | None, known: Path) -> None:
    cuts = np.cumsum((0, *LENGTHS)).tolist()
    assert split_of(known, detector=detector, threshold=threshold) == (list(pairwise(cuts)), {})


def test_a_threshold_that_no_cut_reaches_finds_none(known: Path) -> None:
    clips, _ = split_of(known, detector="content", threshold=250, seconds=[1, 100])
    assert clips == [(0, sum(LENGTHS))]


def test_scenes_of_a_few_frames_are_not_part_of_others(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", *(scene(seed, count) for seed, count in enumerate((1, 30, 5, 40, 2))))
    clips, dropped = split_of(path)
    assert clips == [(1, 31), (36, 76)]
    assert dropped == {"too short": pytest.approx(8 / RATE, abs=0.01)}


def test_what_is_not_worth_training_on_is_dropped(tmp_path: Path) -> None:
    flash = scene(3, 42)
    flash[20:22] = 255
    still = np.repeat(scene(4, 1), 40, axis=0)
    path = film(tmp_path / "film.mp4", scene(1, 40), black(10), still, flash)
    clips, dropped = split_of(path)
    assert clips == [(0, 40), (90, 110), (112, 132)]
    assert dropped == {"black": 0.4, "still": 1.6, "flash": 0.08}
    assert (50, 90) in split_of(path, still=0)[0]
    assert (40, 50) in split_of(path, black=0, still=0)[0]
    assert split_of(path, flash=0)[1].keys() == {"black", "still", "too short"}, "a flash is two cuts all the same"


def test_a_slow_pan_is_not_still(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", scene(1, 60, speed=1, contrast=0.5))
    assert split_of(path) == ([(0, 60)], {})


def test_black_bars_are_cropped_per_scene(tmp_path: Path) -> None:
    night = (scene(3, 30) * np.linspace(0, 1, HEIGHT)[:, None, None] ** 2).astype(np.uint8)
    barred = with_bars(scene(2, 30), 12, 0), with_bars(scene(4, 30), 0, 20)
    path = film(tmp_path / "film.mp4", scene(1, 30), *barred, night)
    clips = find_clips(scan_video(str(path), SPLIT), SPLIT).clips
    crops = [clip.get("crop") for clip in clips]
    assert crops == [None, [0, 14, WIDTH, HEIGHT - 28], [22, 0, WIDTH - 44, HEIGHT], None]
    unset = SPLIT.model_copy(update={"crop_bars": False})
    assert not [clip for clip in find_clips(scan_video(str(path), unset), unset).clips if "crop" in clip]


@pytest.mark.parametrize(
    ("frames", "seconds", "expected"),
    [
        (100, [1, 10], [100]),
        (100, [1, 2], [50, 50]),
        (101, [1, 2], [34, 34, 33]),
        (60, [2, 2], [50]),
        (49, [2, 10], []),
        (50, [2, 10], [50]),
    ],
)
def test_long_scenes_are_divided_evenly(frames: int, seconds: list[float], expected: list[int]) -> None:
    timeline = Timeline(np.arange(frames) / RATE, frames / RATE, "decord", Geometry(), (HEIGHT, WIDTH))
    assert [last - first for first, last in divide((0, frames), timeline, seconds)] == expected


def settings_of(root: Path, *more: str) -> list[str]:
    return ["mode=split", "data=folder", f"data.root={root}", "cache_dir=cache", "split.seconds=[1,10]", *more]


def test_a_folder_becomes_a_manifest_and_more_videos_are_added(known: Path, in_tmp: Path, capsys) -> None:
    root = in_tmp / "films"
    (root / "more").mkdir(parents=True)
    shutil.copy(known, root / "a.mp4")
    (root / "broken.mp4").write_text("no video")
    assert prepare(settings_of(root)) == 2
    assert "1 video could not be split" in capsys.readouterr().err
    manifest = root / "dataset.jsonl"
    cuts = np.cumsum((0, *LENGTHS)).tolist()
    assert list(frame_ranges(manifest)) == list(pairwise(cuts))
    assert {row["video"] for row in rows(manifest)} == {"a.mp4"}
    edited = manifest.read_text().replace('{"video"', '{"caption": "mine", "video"', 1)
    manifest.write_text(edited)
    (root / "broken.mp4").unlink()
    film(root / "more" / "b.mp4", scene(9, 30))
    assert prepare(settings_of(root)) == 0
    assert manifest.read_text().startswith(edited), "rows that are there are kept"
    assert [row["video"] for row in rows(manifest)] == ["a.mp4"] * 4 + ["more/b.mp4"]


def test_clips_can_be_written(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvx_exp.footage.split.split.DecodingPool", PoolHere)
    root = in_tmp / "films"
    exact = ("-crf", "8", "-bf", "0", "-x264-params", "keyint=250:scenecut=40")
    film(root / "copied.mp4", scene(1, 40), scene(2, 30), options=exact)
    film(root / "encoded.mp4", with_bars(scene(1, 40), 12, 0))
    settings = ["split.write=true", "split.dataset_file=found.jsonl", "split.clips_dir=out/clips", "split.timeout=33"]
    assert prepare(settings_of(root, *settings)) == 0
    assert PoolHere.given[1:] == (33, "split.timeout")
    found = rows(root / "found.jsonl")
    names = ("copied.mp4-0001", "copied.mp4-0002", "encoded.mp4-0001")
    assert [row["video"] for row in found] == [f"out/clips/{name}.mp4" for name in names]
    assert [row["source"] for row in found] == ["copied.mp4", "copied.mp4", "encoded.mp4"]
    whole = np.stack(list(open_video(str(root / "copied.mp4")).frames(range(70))))
    for row, first, count in zip(found, (0, 40), (40, 30), strict=False):
        clip = open_video(str(root / row["video"]))
        assert len(clip.starts) == count
        assert (np.stack(list(clip.frames(range(count)))) == whole[first : first + count]).all(), "packets are copied"
    assert open_video(str(root / found[2]["video"])).size == (HEIGHT - 28, WIDTH)
    assert prepare(settings_of(root, *settings)) == 0
    assert rows(root / "found.jsonl") == found, "clips that were written are not split again"


def test_control_videos_go_with_the_clips_of_their_footage(
    known: Path, in_tmp: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogvx_exp.footage.split.split.DecodingPool", PoolHere)
    root = in_tmp / "films"
    root.mkdir()
    for name in ("a.mp4", "a.control.mp4", "b.mp4"):
        shutil.copy(known, root / name)
    assert prepare(settings_of(root, "split.write=true")) == 2
    assert "split.write=true does not cut control videos" in capsys.readouterr().err
    assert prepare(settings_of(root)) == 0
    found = [(row["video"], row.get("control")) for row in rows(root / "dataset.jsonl")]
    assert found == [("a.mp4", "a.control.mp4")] * 4 + [("b.mp4", None)] * 4


def test_it_goes_on_where_it_was_stopped(known: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogvx_exp.footage.split import split

    root = in_tmp / "films"
    root.mkdir()
    for name in "abc":
        shutil.copy(known, root / f"{name}.mp4")
    scanned: list[str] = []

    class Pool(PoolHere):
        """Is stopped at the third video."""

        def map(self, function, tasks):
            for number, task in enumerate(tasks, 1):
                if number == 3:
                    raise KeyboardInterrupt
                scanned.append(Path(task[0]).name)
                yield function(*task)

    monkeypatch.setattr(split, "DecodingPool", Pool)
    assert prepare(settings_of(root)) == 130
    assert len(rows(root / "dataset.jsonl")) == 8
    (root / "dataset.jsonl").unlink()
    assert prepare(settings_of(root)) == 0
    assert scanned == ["a.mp4", "b.mp4", "c.mp4"]
    assert [row["video"] for row in rows(root / "dataset.jsonl")] == [f"{name}.mp4" for name in "abc" for _ in range(4)]


def test_a_journal_survives_a_kill(tmp_path: Path) -> None:
    Journal(tmp_path, 0).append([("a", 1), ("b", {"x": [2]})])
    Journal(tmp_path, 1).append([("c", 3)])
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(b'["d", 4')  # killed while writing
    journal = Journal(tmp_path, 0)
    assert journal.load() == {"a": 1, "b": {"x": [2]}, "c": 3}
    journal.append([("e", 5)])
    assert journal.load() == {"a": 1, "b": {"x": [2]}, "c": 3, "e": 5}


def test_bad_input_is_one_clear_line(known: Path, in_tmp: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*settings: str) -> str:
        assert prepare([*settings_of(in_tmp / "films"), *settings]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 or error.startswith("cogvx_exp.prepare: 1 setting needs a change")
        return error

    monkeypatch.setattr("cogvx_exp.footage.split.split.DecodingPool", PoolHere)
    (in_tmp / "films").mkdir()
    assert "has no videos (.avi, " in refused()
    assert "mode=split takes a folder of videos" in refused("data=jsonl", "data.root=x")
    assert "the minimum comes first" in refused("split.seconds=[9,2]")
    film(in_tmp / "films" / "dark.mp4", black(60))
    assert "no clip was found; videos: 1 (2.4 s black); lower split.seconds" in refused()
    shutil.copy(known, in_tmp / "films" / "a.mp4")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "films/dataset.jsonl")

    monkeypatch.setattr("cogvx_exp.footage.split.split.write_manifest", full)
    assert "No space left on device; free some space. Results so far are kept" in refused()
    monkeypatch.undo()
    monkeypatch.chdir(in_tmp)
    assert prepare(settings_of(in_tmp / "films")) == 0
