"""Settings of the data arrive where clips are found, encoded and loaded. No video is read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import console
from cogvx_exp.core import hub
from cogvx_exp.core.errors import UserError
from cogvx_exp.data import dataset
from cogvx_exp.data.buckets import choose_bucket
from cogvx_exp.data.control.reading import control_source
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.data.forms import sources
from cogvx_exp.data.frames import choose_frames, usable_frames
from cogvx_exp.data.index import examine
from cogvx_exp.data.issues import DataIssue
from cogvx_exp.latents import dataset as latents
from cogvx_exp.latents import prepare
from cogvx_exp.loading import data_loader
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.media.video import VideoInfo
from tests.conftest import MakeJob
from tests.replaced import ReachedError, replaced

INFO = VideoInfo(num_frames=40, height=96, width=144, fps=8, duration=5.0, decoder="decord")


@pytest.fixture
def data(edit_job: MakeJob) -> Any:
    return lambda *settings: edit_job(*settings).data


def test_frames_and_sizes_are_those_of_the_settings(data: Any) -> None:
    skipped = data("data.skip_frames_start=3", "data.skip_frames_end=5", "data.fps=4", "data.max_num_frames=9")
    choice = choose_frames(skipped, 9)
    assert (choice.count, choice.skip_start, choice.skip_end, choice.fps) == (9, 3, 5, 4)
    assert usable_frames(INFO, skipped) == 9
    sizes = ["data.height_buckets=[32,96]", "data.width_buckets=[48,144]", "data.frame_buckets=[9,17]"]
    bucket = choose_bucket(INFO, data(*sizes, "data.max_num_frames=17"))
    assert (bucket.num_frames, bucket.height, bucket.width) == (17, 96, 144)


def test_a_source_is_read_where_and_how_it_says(
    data: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_tmp: Path
) -> None:
    mocks = replaced(monkeypatch, sources, "make_demo") | replaced(monkeypatch, hub, "fetch")
    readers = {name: MagicMock(return_value=[]) for name in sources.READERS}
    monkeypatch.setattr(sources, "READERS", readers)
    (tmp_path / "root").mkdir()
    demo = data("data=demo", f"data.root={tmp_path}/root", "data.clips=5", "data.concept=cross", "data.drawn=[9,16,24]")
    sources.read_source(demo, False, None)
    mocks["make_demo"].assert_called_once_with(tmp_path / "root", 5, "cross", (9, 16, 24))
    mocks["fetch"].return_value = tmp_path / "root"
    published = data("data=hub", "data.root=me/clips", "data.revision=v2", "data.form=folder")
    sources.read_source(published, False, None)
    assert mocks["fetch"].call_args.args == ("me/clips", "v2")
    assert (readers["demo"].call_count, readers["folder"].call_count) == (1, 1)


def test_a_table_has_the_names_that_are_set(data: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,file\na circle,a.mp4\n")
    (tmp_path / "a.mp4").touch()
    names = ["data.dataset_file=mine.csv", "data.caption_column=text", "data.video_column=file", "data.id_token=TOY"]
    rows, issues, _ = sources.read_source(data("data=csv", f"data.root={tmp_path}", *names), False, None)
    assert [(row.path, row.captions) for row in rows] == [(str(tmp_path / "a.mp4"), ("TOY a circle",))]
    assert issues == []


def test_control_videos_have_the_names_that_are_set(data: Any, tmp_path: Path) -> None:
    for name in ("a.mp4", "a.edges.mp4", "a.holes.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("a circle")
    words = ["data.control_column=edges", "data.mask_column=holes"]
    folder = data("data=folder", f"data.root={tmp_path}", *words)
    for word in ("edges", "holes"):
        (row,) = sources.read_folder(dataset.place_of(folder), folder.all_sources()[0], word)
        assert row.control == str(tmp_path / f"a.{word}.mp4")  # type: ignore[union-attr]


def test_sources_are_seen_as_often_as_they_say(data: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mocks = replaced(monkeypatch, dataset, "read_source", "examine_videos", "split_holdout", "_rates")
    mocks["read_source"].return_value = ([], [], [])
    mocks["examine_videos"].return_value = ({}, [])
    mocks["split_holdout"].return_value = ([], [])

    def rates(source: str) -> list[Any]:
        mixed = data("data=mix", f"data.sources=[{{source: files, root: x, {source}}}]", "data.allow_outside_root=true")
        dataset.load_dataset(mixed, tmp_path)
        return list(mocks["_rates"].call_args.args[:2])

    assert rates("repeats: 2.5") == [[2.5], [None]]
    assert rates("weight: 0.25") == [[1.0], [0.25]]
    assert mocks["read_source"].call_args.args[1] is True


def test_issues_stop_a_run_or_are_skipped(data: Any) -> None:
    found = MagicMock(issues=[DataIssue(1, "a.mp4", "is empty", "remove it")], clips=[1], held_out=[])
    dataset.accept(found, data("data.on_error=skip"), console, None)
    with pytest.raises(UserError, match="1 of 2 rows cannot be used"):
        dataset.accept(found, data("data.on_error=raise"), console, None)


def test_a_control_is_computed_with_its_arguments(data: Any) -> None:
    recipe = control_source(data("task=control", "data.control=canny", "+data.control_kwargs.low=50"), None)
    assert isinstance(recipe, Recipe)
    assert (recipe.name, dict(recipe.kwargs)) == ("canny", {"low": 50})


def test_samples_drop_captions_and_flip_as_often_as_set(data: Any) -> None:
    def drawn(*settings: str) -> tuple[float, float]:
        cache = SimpleNamespace(load=lambda key: torch.tensor(key == ""))
        clips: Any = SimpleNamespace(no_caption="", captions=[("a circle",)], names=["a"], cache=cache)
        samples = TrainingSamples(clips, MagicMock(), data(*settings), MagicMock(), 0, MagicMock())
        samples._latents = MagicMock(return_value=torch.zeros(1))  # type: ignore[method-assign]
        draws = [SampleIndex(sample=number, clip=0) for number in range(400)]
        dropped = [bool(samples.sample(draw, torch.zeros(1), {}).prompt_embeds) for draw in draws]
        return sum(dropped) / 400, sum(map(samples.flipped, draws)) / 400

    assert drawn("data.caption_dropout=0.5", "data.random_flip=0.25") == pytest.approx((0.5, 0.25), abs=0.08)
    assert drawn("data.caption_dropout=0", "data.random_flip=0") == (0, 0)


def test_clips_are_encoded_with_the_settings(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, prepare, "_all_work", "_groups", "DecodingPool")
    mocks["_groups"].side_effect = mocks["DecodingPool"].side_effect = ReachedError
    workers = ["data.decode_workers=5", "data.decode_timeout=7"]
    settings: Data = data("data.encode_batch_size=3", "data.reshape=pad", *workers)
    with pytest.raises(ReachedError):
        prepare.prepare_videos([], settings, MagicMock())
    assert mocks["_groups"].call_args.args[1] == 3
    with pytest.raises(ReachedError):
        next(prepare._encode_groups([], settings, None, MagicMock(), {}))
    mocks["DecodingPool"].assert_called_once_with(5, 7)
    work: Any = MagicMock(flip=True)
    assert prepare._decoding_task(work, settings)[3].mode == "pad"


def test_videos_are_examined_with_the_settings(data: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mocks = replaced(monkeypatch, examine, "DecodingPool")
    mocks["DecodingPool"].side_effect = ReachedError
    monkeypatch.setattr(examine, "_stamp_or_issue", lambda path: (path, 1, 1))
    rows: Any = [SimpleNamespace(path=f"{name}.mp4", key=f"{name}.mp4", window=None, number=1) for name in "abcdefg"]
    with pytest.raises(ReachedError):
        examine.examine_videos(rows, data("data.decode_workers=5", "data.decode_timeout=7"), tmp_path)
    mocks["DecodingPool"].assert_called_once_with(5, 7)


@pytest.mark.parametrize(("encode", "cached"), [("cache", ["clip", "held out"]), ("online", ["held out"])])
def test_clips_are_encoded_before_or_in_the_loop(
    data: Any, monkeypatch: pytest.MonkeyPatch, encode: str, cached: list[str]
) -> None:
    mocks = replaced(monkeypatch, latents, "prepare_captions", "prepare_videos", "import_embeds")
    mocks["prepare_videos"].side_effect = ReachedError
    clips = {name: MagicMock(latents=None) for name in ("clip", "held out")}
    found: Any = SimpleNamespace(clips=[clips["clip"]], held_out=[clips["held out"]])
    with pytest.raises(ReachedError):
        latents.encode_dataset(found, data(f"data.encode={encode}"), MagicMock(), [], None)
    assert mocks["prepare_videos"].call_args.args[0] == [clips[name] for name in cached]


def test_batches_are_loaded_with_the_settings(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, data_loader, "DataLoader")
    mocks["DataLoader"].side_effect = ReachedError

    def loader(*settings: str) -> tuple[int, bool]:
        with pytest.raises(ReachedError):
            next(data_loader.cached_batches(MagicMock(), MagicMock(), data(*settings), torch.device("cuda")))
        called = mocks["DataLoader"].call_args.kwargs
        return called["num_workers"], called["pin_memory"]

    assert loader("data.workers=1", "data.pin_memory=true") == (1, True)
    assert loader("data.workers=0", "data.pin_memory=false") == (0, False)
