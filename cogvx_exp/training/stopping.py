"""Stops a run so that it can go on later: on SIGTERM, on SIGUSR1 (Slurm's warning), or after a given time."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Of a run that has saved its state and is to be started again (EX_TEMPFAIL of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

PATIENCE = 10
"""Seconds that a run that was asked to stop waits for what may never come: a late batch, another process."""
before_exit: list[Callable[["Stopped"], None]] = []
"""Called before a process ends itself that could not be stopped otherwise."""


class Stopped(SystemExit):
    """A run that was asked to stop and has saved its state. Ends a sweep, too: all of it is to be resumed."""

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """Notes that the run is to stop after the current step.

    Args:
        max_minutes: after this time; None: never.
    """

    def __init__(self, max_minutes: float | None):
        self.reason: str | None = None
        self._after_step = self._waiting = self._listening = self._settled = False
        self._end = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.reason is None and self._end is not None and time.monotonic() >= self._end:
            self.reason = "checkpoint.max_minutes have passed"
        return self.reason is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._settled:
            return
        again, self.reason = self.reason is not None, f"{signal.Signals(number).name} was received"
        if self._after_step:
            if again and number == signal.SIGTERM:
                self._end_step()
            if self._waiting:
                signal.alarm(PATIENCE)
        else:
            raise Stopped(f"Stopped: {self.reason}; nothing is lost, resume=auto goes on")

    def _watch(self, hear: int) -> None:
        """Ends a process whose main thread waits for another process in C, where Python calls no handler."""
        with os.fdopen(hear, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] not in SIGNALS or self._after_step or self._settled:
                    continue
                time.sleep(PATIENCE)
                if self._listening and not self._after_step and not self._settled:
                    name = signal.Signals(number[0]).name
                    for say in before_exit:
                        say(Stopped(f"Stopped: {name} was received; nothing is lost, resume=auto goes on"))
                    os._exit(EXIT_CODE)

    def settle(self) -> None:
        """The run is stopping: from here on signals change nothing, so that its state is saved whole.

        Several processes get theirs at different moments, and under Slurm more than once.
        """
        self._settled = True
        self.reason = self.reason or "another of its processes was asked to"

    def _end_step(self, *about: object) -> None:
        raise Stopped(f"Stopped in the middle of a step: {self.reason}; resume=auto goes on from the last checkpoint")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, what may never come is waited for: then a run that is asked to stop does not end its step."""
        self._waiting = self._listening
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
        """Inside, the signals are noted, and training stops after the step; a second SIGTERM stops it at once."""
        self._after_step = True
        try:
            yield
        finally:
            self._after_step = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the signals end the run with `EXIT_CODE`. In another thread than the main one: nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_step)
        self._listening = True
        hear, told = os.pipe()
        os.set_blocking(told, False)
        wakeup = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(hear,), name="stopping", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # one that came too early has waited
        try:
            yield
        finally:
            self._listening = False
            signal.set_wakeup_fd(wakeup)
            os.close(told)
            for number, handler in before.items():
                signal.signal(number, handler)
