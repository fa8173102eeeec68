"""How many clips a share or a count holds out."""

from pathlib import Path

import pytest

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import Clip, split_holdout
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.media.video import VideoInfo


def clips(count: int) -> list[Clip]:
    info, bucket = VideoInfo(9, 32, 48, 8.0, 1.125), Bucket(9, 32, 48)
    return [Clip(Row(number, f"/clips/{number}.mp4", ("x",)), 0, info, bucket) for number in range(count)]


@pytest.mark.parametrize(("wanted", "count"), [(0.05, 1), (0.5, 4), (0.0, 0), (0, 0), (2, 2)])
def test_a_share_above_zero_holds_out_at_least_one(make_job, wanted: float, count: int) -> None:
    data = make_job("data=files", "data.root=x", f"data.holdout={wanted}").data
    training, held_out = split_holdout(clips(7), data)
    assert (len(training), len(held_out)) == (7 - count, count)


@pytest.mark.parametrize("wanted", [7, 9])
def test_no_clip_left_to_train_on_is_refused(make_job, wanted: int) -> None:
    data = make_job("data=files", "data.root=x", f"data.holdout={wanted}").data
    with pytest.raises(UserError, match=f"data.holdout={wanted}.*7 videos; leave some to train on"):
        split_holdout(clips(7), data)


def test_the_held_out_loss_is_measured_without_videos(make_job, tmp_path: Path) -> None:
    validation = make_job("validation=none", "checkpoint.every=7").validation
    assert (validation.loss_every, validation.loss_timesteps) == (7, 10)
