"""Decodes in worker processes, so that a file that crashes or hangs a decoder costs only itself."""

import ctypes
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.shared_memory import has_room, no_room
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.faults import ClipError
from cogvx_exp.data.frames import FrameChoice
from cogvx_exp.data.resize import ResizeSpec, fit_frame
from cogvx_exp.media.errors import REENCODE
from cogvx_exp.media.video import VideoInfo, open_video

M_ARENA_MAX = -8
"""From malloc.h."""

AHEAD = 2
"""Tasks waiting or done, for each worker, before their results are asked for."""


class DecodingPool:
    """Runs functions on files in worker processes; results come in the order of the tasks.

    Args:
        workers: number of processes.
        timeout: seconds a task may take; then its process is killed.
    """

    def __init__(self, workers: int, timeout: float):
        self._timeout, self._workers = timeout, workers
        self._ahead = workers * AHEAD
        # Spawned, not forked: forking a process that has threads (torch, a GPU) is not safe.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(max_workers=workers, initializer=_prepare_worker, context=context)

    def __enter__(self) -> "DecodingPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.stop()
        self._pool.join()

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The result of `function(*task)` for each task, or the ClipError that it ended with."""
        waiting: deque[ProcessFuture] = deque()
        for task in tasks:
            waiting.append(self._schedule(function, task))
            if len(waiting) > self._ahead:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _schedule(self, function: Callable[..., Any], task: tuple[Any, ...]) -> ProcessFuture:
        try:
            return self._pool.schedule(function, args=task, timeout=self._timeout)
        except OSError as error:  # of the first task: the processes cannot be started
            if not has_room(self._workers):
                raise UserError(f"videos cannot be decoded in processes of their own: {no_room()}") from error
            raise

    def _result(self, future: ProcessFuture) -> Any:
        try:
            return future.result()
        except ClipError as error:
            return error
        except FutureTimeoutError:
            what = f"decoding took longer than data.decode_timeout={self._timeout:g} seconds"
            return ClipError(what, f"raise that setting, or {REENCODE}")
        except ProcessExpired as error:
            return ClipError(f"crashed the decoder (exit code {error.exitcode})", REENCODE)
        except UserError:
            raise
        except Exception as error:  # one file that breaks a decoder in a new way is one fault
            text = str(error).partition("\n")[0][:200]
            return ClipError(f"cannot be decoded ({type(error).__name__}: {text})", REENCODE)


def read_clip(
    path: str, choice: FrameChoice, bucket: Bucket, fit: ResizeSpec, known: VideoInfo | None = None
) -> np.ndarray:
    """Decodes a clip in its bucket's size: uint8, (frames, height, width, 3).

    Args:
        path: the file.
        choice: which frames.
        bucket: the size.
        fit: how frames are brought to it.
        known: what is known about the video, which saves time.

    Raises:
        ClipError: it cannot be decoded.
    """
    reader = open_video(path, known)
    try:
        frames = reader.frames(choice.indices(reader.starts))
        return np.stack([fit_frame(frame, bucket, fit) for frame in frames])
    except ClipError:
        raise
    except Exception:  # decord raises errors of several classes
        raise ClipError("has damaged frames that cannot be decoded", REENCODE) from None


def _prepare_worker() -> None:
    """Silences the decoders, which write to the terminal from C (what a user needs comes back as an error).

    Also keeps malloc to one arena: with one for each of the decoder's threads, the memory of a 4K clip
    grew by 10 MiB a frame.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_ARENA_MAX, 1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
