import numpy as np
import pytest

from cogvx_exp.loading.sampler import BatchStream

BUCKETS = np.array([0] * 13 + [1] * 7 + [2] * 2)


def stream(batch_size: int, *, drop: bool = False, start: int = 0, buckets: np.ndarray = BUCKETS) -> BatchStream:
    return BatchStream(buckets, batch_size=batch_size, seed=3, drop_remainder=drop, start=start)


def take(batches: BatchStream, count: int) -> list[list[tuple[int, int]]]:
    iterator = iter(batches)
    return [[(draw.sample, draw.clip) for draw in next(iterator)] for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5])
def test_an_epoch_covers_every_clip_in_batches_of_one_bucket(batch_size: int) -> None:
    batches = stream(batch_size)
    plan = batches.epoch(0)
    assert plan.shape == (batches.batches_per_epoch, batch_size)
    assert set(plan.ravel()) == set(range(len(BUCKETS)))
    assert all(len(set(BUCKETS[row])) == 1 for row in plan)
    assert plan.size - len(BUCKETS) == batches.repeated


def test_dropping_the_remainder_leaves_out_what_it_says() -> None:
    batches = stream(4, drop=True)
    plan = batches.epoch(0)
    assert len(set(plan.ravel())) == plan.size == len(BUCKETS) - batches.dropped
    assert batches.batches_per_epoch == 13 // 4 + 7 // 4


def test_epochs_differ_and_mix_buckets() -> None:
    batches = stream(1)
    first, second = batches.epoch(0).ravel(), batches.epoch(1).ravel()
    assert list(first) != list(second)
    changes = np.count_nonzero(np.diff(BUCKETS[first]))
    assert changes > 4, "the buckets come one after another"


def test_a_stream_can_start_anywhere() -> None:
    whole = take(stream(2), 40)
    assert take(stream(2, start=17), 23) == whole[17:]


def test_order_and_sample_numbers_do_not_depend_on_how_a_step_is_cut_into_batches() -> None:
    one_bucket = np.zeros(12, dtype=int)
    singles = [draw for batch in take(stream(1, buckets=one_bucket), 48) for draw in batch]
    fours = [draw for batch in take(stream(4, buckets=one_bucket), 12) for draw in batch]
    assert singles == fours


def test_every_process_gets_equally_many_batches_and_together_they_cover_the_epoch() -> None:
    world_size, alone = 3, take(stream(2, start=5), 21)
    streams = [stream(2, start=5) for _ in range(world_size)]
    for rank, batches in enumerate(streams):
        batches.rank, batches.world_size = rank, world_size
    assert [take(batches, 7) for batches in streams] == [alone[rank::world_size] for rank in range(world_size)]


SOURCES = np.array([0] * 8 + [1] * 5 + [0] * 4 + [1] * 3 + [1] * 2)


def counts(rates: list[float], epochs: int) -> np.ndarray:
    """How often each clip is seen."""
    batches = BatchStream(BUCKETS, SOURCES, rates, batch_size=1, seed=0, drop_remainder=False)
    drawn = np.concatenate([batches.epoch(epoch).ravel() for epoch in range(epochs)])
    return np.bincount(drawn, minlength=len(BUCKETS))


def test_repeats_show_every_clip_of_a_source_so_often() -> None:
    assert list(counts([1.0, 3.0], 1)) == [3 if source else 1 for source in SOURCES]


def test_a_fractional_rate_shows_every_clip_equally_often_over_the_epochs() -> None:
    seen = counts([1.0, 0.4], 20)
    assert all(seen[SOURCES == 0] == 20)
    of_one_group = seen[(SOURCES == 1) & (BUCKETS == 0)]  # 5 clips: 2 of them in every epoch
    assert set(of_one_group) == {8}


def test_a_source_without_weight_is_never_seen() -> None:
    assert counts([1.0, 0.0], 3)[SOURCES == 1].sum() == 0
