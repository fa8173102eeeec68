"""Decodes in worker processes, so a file that crashes or hangs a decoder only affects itself."""

import ctypes
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from cogvx_exp.core.disk import FULL
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.shared_memory import has_room, no_room
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.frames import FrameChoice
from cogvx_exp.data.issues import ClipError
from cogvx_exp.data.resize import ResizeSpec, fit_frame
from cogvx_exp.media.errors import REENCODE
from cogvx_exp.media.video import VideoInfo, open_part
from cogvx_exp.media.window import Window

M_ARENA_MAX = -8
"""From malloc.h."""

AHEAD = 2
"""Tasks per worker that are submitted before their results are read, which bounds memory."""


class DecodingPool:
    """Runs functions on files in worker processes; results are returned in the order of the tasks.

    Args:
        workers: number of processes.
        timeout: time limit of a task in seconds, after which its process is killed.
        setting: name of the setting that has the limit.
    """

    def __init__(self, workers: int, timeout: float, setting: str = "data.decode_timeout"):
        self._timeout, self._workers, self._setting = timeout, workers, setting
        self._ahead = workers * AHEAD
        # Spawned, not forked: a fork copies locks that other threads (torch, CUDA) may hold, and can deadlock.
        context = multiprocessing.get_context("spawn")
        # pebble, because concurrent.futures can neither kill a task that hangs nor survive a worker that crashes.
        self._pool = ProcessPool(max_workers=workers, initializer=_prepare_worker, context=context)

    def __enter__(self) -> "DecodingPool":
        return self

    def __exit__(self, *exception: object) -> None:
        # Stopped, not closed: after an error, nobody waits for tasks that are still running.
        self._pool.stop()
        self._pool.join()

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yields the result of `function(*task)` for each task, or the ClipError it raised."""
        waiting: deque[ProcessFuture] = deque()
        for task in tasks:
            waiting.append(self._schedule(function, task))
            # Results in order: a fast worker must not run further ahead than memory allows.
            if len(waiting) > self._ahead:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _schedule(self, function: Callable[..., Any], task: tuple[Any, ...]) -> ProcessFuture:
        try:
            return self._pool.schedule(function, args=task, timeout=self._timeout)
        except OSError as error:  # on the first task: the processes cannot be started
            if not has_room(self._workers):
                raise UserError(f"videos cannot be decoded in worker processes: {no_room()}") from error
            raise

    def _result(self, future: ProcessFuture) -> Any:
        try:
            return future.result()
        except ClipError as error:
            return error
        except FutureTimeoutError:
            what = f"decoding took longer than {self._setting}={self._timeout:g} seconds"
            return ClipError(what, f"raise that setting, or {REENCODE}")
        # A decoder that crashed in C: pebble has started another process for the next task.
        except ProcessExpired as error:
            return ClipError(f"crashed the decoder (exit code {error.exitcode})", REENCODE)
        except UserError:
            raise
        except Exception as error:  # an unknown decoder failure only affects its file
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            text = str(error).partition("\n")[0][:200]
            return ClipError(f"cannot be decoded ({type(error).__name__}: {text})", REENCODE)


def read_clip(
    path: str,
    choice: FrameChoice,
    bucket: Bucket,
    fit: ResizeSpec,
    known: VideoInfo | None = None,
    window: Window | None = None,
) -> np.ndarray:
    """Decodes a clip in its bucket's size: uint8, (frames, height, width, 3).

    Args:
        path: the file.
        choice: the frames to decode.
        bucket: the target size.
        fit: how frames are resized.
        known: result of an earlier probe, which saves time.
        window: the part of the file that is the clip; None: all of it.

    Raises:
        ClipError: it cannot be decoded.
    """
    reader = open_part(path, window, known)
    try:
        frames = reader.frames(choice.indices(reader.starts))
        # Frame by frame, so that a 4K clip is never whole in memory.
        return np.stack([fit_frame(frame, bucket, fit) for frame in frames])
    except ClipError:
        raise
    except Exception:  # decord raises errors of several classes
        raise ClipError("has damaged frames that cannot be decoded", REENCODE) from None


def _prepare_worker() -> None:
    """Silences the decoders, which write to the terminal from C; errors are returned to the parent instead.

    Also limits malloc to one arena: with an arena per decoder thread, memory grew by 10 MiB per frame of a 4K clip.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_ARENA_MAX, 1)
    # File descriptors, since C libraries do not know about sys.stderr.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
