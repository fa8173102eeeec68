"""Which clips form which batch, without reading a clip and without state.

The order of an epoch follows from (seed, epoch) alone. Every clip draws a random rank; the clips of a
bucket, sorted by rank, are cut into batches, and a batch takes the place of its first clip. So the
order is shuffled within and across buckets, and with one bucket the clips come in the same order
whatever the batch size. Epochs follow each other without a gap, and batch number i is the same for
everybody: process r of n takes the batches i with i % n == r.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Draw:
    """One training sample to come."""

    sample: int
    """Number of the sample in the whole run; keys its randomness."""
    clip: int
    """Index of the clip."""


class BatchStream(Sampler[list[Draw]]):
    """An endless stream of batches, each of one bucket.

    Args:
        buckets: the bucket of each clip, as an integer; shape (clips,).
        batch_size: clips in a batch.
        seed: seed of the order.
        drop_remainder: drop a bucket's last batch if it is not full; else fill it with clips of the bucket.
        start: number of the first batch to yield.
    """

    def __init__(self, buckets: np.ndarray, *, batch_size: int, seed: int, drop_remainder: bool, start: int = 0):
        self.buckets = np.asarray(buckets)
        self.batch_size = batch_size
        self.seed = seed
        self.drop_remainder = drop_remainder
        self.start = start
        counts = np.bincount(self.buckets)
        full, rest = counts // batch_size, counts % batch_size
        self.batches_per_epoch = int(full.sum() + (0 if drop_remainder else (rest > 0).sum()))
        self.dropped = int(rest.sum()) if drop_remainder else 0
        """Clips left out of every epoch."""
        self.repeated = 0 if drop_remainder else int(((batch_size - rest) * (rest > 0)).sum())
        """Clips seen twice in every epoch."""

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, position = divmod(self.start, self.batches_per_epoch)
        number = self.start
        while True:
            for clips in self.epoch(epoch)[position:]:
                first = number * self.batch_size
                yield [Draw(first + offset, int(clip)) for offset, clip in enumerate(clips)]
                number += 1
            epoch, position = epoch + 1, 0

    def epoch(self, epoch: int) -> np.ndarray:
        """The clips of every batch of an epoch: integers, (batches, batch_size)."""
        rank = np.random.default_rng([self.seed, epoch]).permutation(len(self.buckets))
        batches = [self._cut(np.flatnonzero(self.buckets == bucket), rank) for bucket in np.unique(self.buckets)]
        plan = np.concatenate(batches)
        return plan[np.argsort(rank[plan[:, 0]], kind="stable")]

    def _cut(self, clips: np.ndarray, rank: np.ndarray) -> np.ndarray:
        ordered = clips[np.argsort(rank[clips])]
        full = len(ordered) // self.batch_size * self.batch_size
        if full < len(ordered) and not self.drop_remainder:
            batches = -(-len(ordered) // self.batch_size)
            ordered = np.resize(ordered, batches * self.batch_size)  # repeats from the start
        else:
            ordered = ordered[:full]
        return ordered.reshape(-1, self.batch_size)
