import numpy as np
import pytest

from cogvx_exp.config.schema import Data
from cogvx_exp.data.buckets import choose_bucket
from cogvx_exp.data.frames import choose_frames, usable_frames
from cogvx_exp.data.issues import ClipError
from cogvx_exp.media.video import VideoInfo


@pytest.fixture
def data(make_job) -> Data:
    return make_job("model=5b", "data=files", "data.root=x", "data.frame_buckets=[9,17,49]").data


def video(num_frames: int = 60, height: int = 480, width: int = 720, fps: float = 8) -> VideoInfo:
    return VideoInfo(num_frames, height, width, fps, num_frames / fps)


@pytest.mark.parametrize(("num_frames", "expected"), [(9, 9), (16, 9), (17, 17), (48, 17), (49, 49), (500, 49)])
def test_a_clip_gets_the_most_frames_it_fills(data: Data, num_frames: int, expected: int) -> None:
    assert choose_bucket(video(num_frames), data).num_frames == expected


def test_a_clip_that_is_too_short_is_a_issue_that_names_the_way_out(data: Data) -> None:
    with pytest.raises(ClipError, match=r"8 usable frames.*smallest of data.frame_buckets is 9"):
        choose_bucket(video(8), data)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1080, 1920), (256, 448)), ((1920, 1080), (448, 256)), ((300, 300), (256, 256)), ((2000, 2000), (448, 448))],
)
def test_nearest_aspect_ratio_then_area(data: Data, size: tuple[int, int], expected: tuple[int, int]) -> None:
    sizes = data.model_copy(update={"height_buckets": [256, 448], "width_buckets": [256, 448]})
    bucket = choose_bucket(video(49, *size), sizes)
    assert (bucket.height, bucket.width) == expected


def starts(info: VideoInfo) -> np.ndarray:
    return np.arange(info.num_frames) / info.fps


def indices(info: VideoInfo, data: Data, count: int) -> list[int]:
    return choose_frames(data, count).indices(starts(info))


def test_frames_are_spread_over_the_video_without_its_ends(data: Data) -> None:
    cut = data.model_copy(update={"skip_frames_start": 5, "skip_frames_end": 10})
    assert indices(video(60), cut, 9) == [5, 10, 15, 20, 25, 30, 35, 40, 45]


def test_by_time_a_fast_and_a_slow_copy_give_the_same_moments(data: Data) -> None:
    by_time = data.model_copy(update={"fps": 8.0})
    fast, slow = video(181, fps=30), video(49, fps=8)
    assert usable_frames(fast, by_time) == usable_frames(slow, by_time) == 49
    moments = [index / 30 for index in indices(fast, by_time, 49)]
    assert moments == pytest.approx([index / 8 for index in indices(slow, by_time, 49)], abs=0.51 / 30)


def test_by_time_an_uneven_video_is_read_at_even_moments(data: Data) -> None:
    shown_at = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 2.0, 3.0])
    by_time = data.model_copy(update={"fps": 1.0})
    assert choose_frames(by_time, 4).indices(shown_at) == [0, 3, 5, 6]


@pytest.mark.parametrize("source_fps", [7.9, 8, 12, 23.976, 25, 29.97, 60])
@pytest.mark.parametrize("num_frames", [1, 2, 9, 50, 61, 150])
def test_usable_frames_by_time_can_all_be_read(data: Data, source_fps: float, num_frames: int) -> None:
    by_time = data.model_copy(update={"fps": 8.0, "max_num_frames": 1000, "skip_frames_start": 1})
    info = video(num_frames, fps=source_fps)
    count = usable_frames(info, by_time)
    if num_frames == 1:
        assert count == 0
        return
    chosen = indices(info, by_time, count)
    assert chosen[0] == 1
    assert chosen[-1] < num_frames
    assert chosen == sorted(chosen)
    ideal = 1 / source_fps + np.arange(count) / 8
    assert np.abs(np.array(chosen) / source_fps - ideal).max() <= 0.501 / source_fps
