"""Worker processes that load batches from the cache ahead of training."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.shared_memory import has_room, no_room
from cogvx_exp.diffusion.batch import Batch, collate
from cogvx_exp.distributed.waiting import WaitReporter
from cogvx_exp.loading.sampler import BatchStream, SampleIndex
from cogvx_exp.loading.samples import TrainingSamples

logger = logging.getLogger(__name__)

Wait = Callable[[], AbstractContextManager[None]]
"""Returns a context manager for the time spent waiting for a batch."""


def cached_batches(
    samples: TrainingSamples,
    stream: BatchStream,
    data: Data,
    device: torch.device,
    wait: Wait = nullcontext,
) -> Iterator[Batch]:
    """Endless iterator of batches in host memory, loaded ahead by `data.workers` processes.

    Args:
        samples: maps an index to a sample.
        stream: the sample indices of each batch.
        data: the settings.
        device: where they will be copied; for a GPU, they are pinned.
        wait: entered while waiting for a batch.

    Raises:
        UserError: a worker was killed, or a cache entry is damaged.
    """
    workers = _possible(data.workers)
    logger.info("reading batches with %d workers, pin_memory=%s", workers, data.pin_memory and device.type == "cuda")
    # No `worker_init_fn`: loaders draw nothing from global generators.
    loader = DataLoader(
        _OrError(samples),
        batch_sampler=stream,
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=data.pin_memory and device.type == "cuda",
        persistent_workers=workers > 0,
    )
    loaded = iter(loader)
    # PyTorch's SIGCHLD handler raises in the main thread wherever it is, even in the middle of a checkpoint. Without
    # the handler, the death of a worker is noticed by the next request for a batch instead.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reporter = WaitReporter("the next batch; the storage of cache_dir is slow or gone")
    try:
        while True:
            with reporter.waiting(), wait():
                batch = _next(loaded)
            if isinstance(batch, UserError):  # from a worker, where raising it would print a traceback
                raise batch
            yield batch
    finally:
        reporter.end()


@dataclass(frozen=True)
class _OrError(Dataset[Batch | UserError]):
    """Samples, or the UserError raised while reading one."""

    samples: TrainingSamples

    def __getitem__(self, draw: SampleIndex) -> Batch | UserError:
        try:
            return self.samples[draw]
        except UserError as error:
            return error


def _collate(samples: list[Batch | UserError]) -> Batch | UserError:
    good = [sample for sample in samples if isinstance(sample, Batch)]
    return next((sample for sample in samples if isinstance(sample, UserError)), None) or collate(good)


def _next(loaded: Iterator[Batch | UserError]) -> Batch | UserError:
    try:
        return next(loaded)
    except (SystemExit, KeyboardInterrupt):
        for child in multiprocessing.active_children():  # otherwise the exit would wait for a worker that hangs
            child.kill()
        raise
    except (RuntimeError, EOFError, ConnectionError) as error:
        # DataLoader has no exception class of its own for a worker that was killed.
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        raise UserError(
            "a data loading process was killed, probably because the machine ran out of memory; the last "
            "checkpoint is kept: resume with a smaller data.workers, or with data.workers=0"
        ) from error


def _possible(workers: int) -> int:
    """`data.workers`, or 0 if shared memory is too small; prints a note about unusual values."""
    # Not os.cpu_count: Slurm or taskset may leave fewer to this process.
    cores = len(os.sched_getaffinity(0))
    if workers and not has_room(workers):
        console.warn(f"Note: data.workers={workers}, but {no_room()}; using data.workers=0")
        return 0
    if workers > max(cores, 2):
        console.warn(f"Note: data.workers={workers} with {cores} cores: more workers than cores gain nothing")
    return workers
