"""Order of clips and batches, computed without reading clips and without state.

The order of an epoch depends only on (seed, epoch). Each draw of the epoch gets a random rank. The draws of a bucket,
sorted by rank, are cut into batches, and a batch takes the position of its first draw. The order is thus shuffled
within and across buckets, and with one bucket it does not depend on the batch size. Epochs follow each other without a
gap, and batch number i is the same for all processes: process r of n takes the batches i with i % n == r, so all
processes get equally many.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """A training sample to be loaded."""

    sample: int
    """Number of the sample within the run, which keys its randomness."""
    clip: int
    """Index of the clip."""


@dataclass(frozen=True)
class _Group:
    """The clips of one source in one bucket."""

    bucket: int
    clips: np.ndarray
    draws: int
    """Samples per epoch."""


class BatchStream(Sampler[list[SampleIndex]]):
    """An endless stream of batches, each from one bucket.

    Args:
        buckets: the bucket of each clip, as an integer; shape (clips,).
        sources: the source of each clip, as an integer; shape (clips,).
        rates: how often a clip of each source is seen per epoch; 0.5 means once in two epochs.
        batch_size: clips per batch.
        seed: seed of the order.
        drop_remainder: drop a bucket's incomplete last batch; otherwise fill it with clips of the bucket.
        start: number of the first batch over all processes.
        rank: this process yields the batches `start + rank`, `start + rank + world_size` and so on.
        world_size: processes that share the stream.
    """

    def __init__(
        self,
        buckets: np.ndarray,
        sources: np.ndarray | None = None,
        rates: list[float] | None = None,
        *,
        batch_size: int,
        seed: int,
        drop_remainder: bool,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.batch_size = batch_size
        self.seed = seed
        self.drop_remainder = drop_remainder
        self.start = start
        self.rank = rank
        self.world_size = world_size
        sources = np.zeros(len(buckets), int) if sources is None else sources
        self._groups = list(_groups(np.asarray(buckets), sources, rates or [1.0]))
        draws = np.bincount(
            [group.bucket for group in self._groups], weights=[group.draws for group in self._groups]
        ).astype(int)
        full, rest = draws // batch_size, draws % batch_size
        self.batches_per_epoch = int(full.sum() + (0 if drop_remainder else (rest > 0).sum()))
        self.dropped = int(rest.sum()) if drop_remainder else 0
        """Samples dropped per epoch."""
        self.repeated = 0 if drop_remainder else int(((batch_size - rest) * (rest > 0)).sum())
        """Samples repeated per epoch to fill incomplete batches."""

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        # The position is a number, so resuming in the middle of an epoch reads no clips.
        epoch, position = divmod(self.start, self.batches_per_epoch)
        number = self.start
        while True:
            for clips in self.epoch(epoch)[position:]:
                # Relative to the start: after a resume with another number of processes, the start need not be a
                # multiple of it.
                if (number - self.start) % self.world_size == self.rank:
                    # Numbers follow the global batch and not the process: this keys all randomness of a sample.
                    first = number * self.batch_size
                    yield [SampleIndex(first + offset, int(clip)) for offset, clip in enumerate(clips)]
                number += 1
            epoch, position = epoch + 1, 0

    def epoch(self, epoch: int) -> np.ndarray:
        """The clips of all batches of an epoch: integers, (batches, batch_size)."""
        drawn = [self._draw(group, number, epoch) for number, group in enumerate(self._groups)]
        clips = np.concatenate(drawn)
        buckets = np.repeat([group.bucket for group in self._groups], [group.draws for group in self._groups])
        # A list as seed: numpy mixes its parts, so seed 1 in epoch 2 and seed 2 in epoch 1 differ.
        rank = np.random.default_rng([self.seed, epoch]).permutation(len(clips))
        order = np.lexsort((rank, buckets))  # by bucket, and within a bucket by rank
        ends = np.flatnonzero(np.diff(buckets[order], append=-1)) + 1
        plan = np.concatenate([self._cut(part) for part in np.split(order, ends[:-1])])
        # Batches are mixed across buckets by the random rank of their first clip.
        return clips[plan[np.argsort(rank[plan[:, 0]], kind="stable")]]

    def _draw(self, group: _Group, number: int, epoch: int) -> np.ndarray:
        """The group's clips in an epoch: the next piece of an endless sequence of shuffled copies of the group."""
        size = len(group.clips)
        first, last = epoch * group.draws, (epoch + 1) * group.draws
        # Rates are not whole numbers: an epoch may begin in the middle of one copy and end in the middle of another.
        copies = range(first // size, -(-last // size))
        shuffles = [np.random.default_rng([self.seed, number, copy, 1]).permutation(group.clips) for copy in copies]
        offset = first - copies.start * size
        return np.concatenate([*shuffles, group.clips[:0]])[offset : offset + group.draws]

    def _cut(self, draws: np.ndarray) -> np.ndarray:
        """Cuts a bucket's draws into batches: (batches, batch_size)."""
        full = len(draws) // self.batch_size
        if full * self.batch_size < len(draws) and not self.drop_remainder:
            return np.resize(draws, (full + 1, self.batch_size))  # repeats from the start
        return draws[: full * self.batch_size].reshape(full, self.batch_size)


def _groups(buckets: np.ndarray, sources: np.ndarray, rates: list[float]) -> Iterator[_Group]:
    keys = buckets * len(rates) + sources
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order], append=-1)) + 1
    for clips in np.split(order, ends[:-1]):
        rate = rates[sources[clips[0]]]
        draws = max(round(len(clips) * rate), 1) if rate > 0 else 0
        yield _Group(int(buckets[clips[0]]), clips, draws)
