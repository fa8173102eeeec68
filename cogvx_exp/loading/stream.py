"""The batch order of a run."""

import logging

import numpy as np

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import Dataset
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.loading.sampler import BatchStream

logger = logging.getLogger(__name__)


def batch_stream(job: TrainJob, dataset: Dataset, processes: ProcessGroup) -> BatchStream:
    """The batches of this process from the start of the run; prints the effect of `data.remainder`.

    Raises:
        UserError: no bucket can fill a batch.
    """
    # Numbers instead of shapes: numpy sorts and groups a million of them at once.
    buckets = {bucket: number for number, bucket in enumerate(dataset.bucket_counts())}
    drop = job.data.remainder == "drop"
    stream = BatchStream(
        np.array([buckets[clip.bucket] for clip in dataset.clips]),
        np.array([clip.source for clip in dataset.clips]),
        dataset.rates,
        batch_size=job.batch_size,
        seed=job.seed,
        drop_remainder=drop,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    counts = dataset.bucket_counts()
    logger.info("%d batches in an epoch; clips by bucket: %s", stream.batches_per_epoch, counts)
    if stream.batches_per_epoch == 0:
        raise UserError(f"no bucket has batch_size={job.batch_size} clips; use a smaller one or data.remainder=pad")
    if stream.repeated or stream.dropped:
        what = f"samples dropped: {stream.dropped}" if drop else f"samples added to fill batches: {stream.repeated}"
        console.warn(f"Per epoch, {what} (data.remainder={job.data.remainder})")
    return stream
