"""Stops a run so that it can be resumed: on SIGTERM, SIGUSR1 (Slurm's warning), or after a given time."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Exit code of a run that has saved its state and should be restarted (EX_TEMPFAIL in sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

PATIENCE = 10
"""Seconds that a stopping run waits for something that may never come: a late batch, another process."""
before_exit: list[Callable[["Stopped"], None]] = []
"""Called before a process that cannot be stopped otherwise exits."""


class Stopped(SystemExit):
    """A run was asked to stop and has saved its state. Also ends a sweep, all of which can be resumed."""

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """Records that the run should stop after the current step.

    Args:
        max_minutes: time limit; None: no limit.
    """

    def __init__(self, max_minutes: float | None):
        self.reason: str | None = None
        self._after_step = self._waiting = self._listening = self._settled = False
        self._end = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.reason is None and self._end is not None and time.monotonic() >= self._end:
            self.reason = "checkpoint.max_minutes has passed"
        return self.reason is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        # The state is being saved: raising here would lose it.
        if self._settled:
            return
        again, self.reason = self.reason is not None, f"{signal.Signals(number).name} was received"
        if self._after_step:
            # Only SIGTERM: SIGUSR1 may come from Slurm and from the parent process, so a second one means nothing.
            if again and number == signal.SIGTERM:
                self._end_step()
            if self._waiting:
                # An alarm, because a flag is only looked at after the step, and its next batch may never come.
                signal.alarm(PATIENCE)
        else:
            # No step is running: encoding, loading and sampling can end anywhere.
            raise Stopped(f"Stopped: {self.reason}; nothing is lost, resume=auto continues")

    def _watch(self, read_end: int) -> None:
        """Exits if the main thread waits for another process in C code, where Python cannot run signal handlers."""
        # The wakeup descriptor gets a byte from C for each signal, even while Python cannot run its handlers.
        with os.fdopen(read_end, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] not in SIGNALS or self._after_step or self._settled:
                    continue
                time.sleep(PATIENCE)
                if self._listening and not self._after_step and not self._settled:
                    name = signal.Signals(number[0]).name
                    for say in before_exit:
                        say(Stopped(f"Stopped: {name} was received; nothing is lost, resume=auto continues"))
                    os._exit(EXIT_CODE)

    def settle(self) -> None:
        """Ignores further signals while the state is saved.

        Several processes receive theirs at different times, and under Slurm more than once.
        """
        self._settled = True
        self.reason = self.reason or "another process was asked to stop"

    def _end_step(self, *about: object) -> None:
        raise Stopped(f"Stopped in the middle of a step: {self.reason}; resume=auto continues from the last checkpoint")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks a wait that may never end, so that a run asked to stop does not wait for its step to complete."""
        self._waiting = self._listening
        # The request may have come before the wait began.
        if self._waiting and self():
            signal.alarm(PATIENCE)
        try:
            yield
        finally:
            if self._waiting and self.reason:
                signal.alarm(0)
            self._waiting = False

    @contextmanager
    def after_step(self) -> Iterator[None]:
        """Delays stopping until after the step inside the block; a second SIGTERM stops immediately."""
        self._after_step = True
        try:
            yield
        finally:
            self._after_step = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals inside the block, which then end the run with `EXIT_CODE`. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        # The alarm raises in the main thread: an exception in another thread would not end its wait.
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_step)
        self._listening = True
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)  # required by set_wakeup_fd
        wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read_end,), name="stopping", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # delivers signals that arrived too early
        try:
            yield
        finally:
            self._listening = False
            signal.set_wakeup_fd(wakeup)
            os.close(write_end)
            for number, handler in before.items():
                signal.signal(number, handler)
