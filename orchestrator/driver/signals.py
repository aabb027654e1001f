"""Ctrl-C and SIGTERM: the first one ends a sweep in order, the second one at once. `stop` lets epochs end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from orchestrator.storage.driver_lock import STOP_SIGNAL


class Stopped(Exception):
    """The user wants the sweep to end: what was being made is given up, and made when it goes on."""


class Interruption:
    """Whether the user wants the sweep to end. Inside `gently` a signal asks Tune to stop, else it raises."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.is_gentle = False
        self.is_asked_to_stop = False  # after the running epochs

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it, for `stop` that of Ctrl-C; 0 = there was none."""
        number = self.signal_number or (signal.SIGINT if self.is_asked_to_stop else None)
        return 128 + number if number else 0

    @contextmanager
    def gently(self) -> Generator[None]:
        """Tune's loop runs inside: it ends after its current step, and its processes are stopped."""
        self.is_gentle = True
        try:
            yield
        finally:
            self.is_gentle = False

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """Is the signal handler."""
        is_first, self.signal_number = self.signal_number is None, signal_number
        if self.is_gentle and is_first and callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)  # Tune's own way to end early
        else:
            raise KeyboardInterrupt

    def note_stop(self, signal_number: int, frame: FrameType | None) -> None:
        """Is the handler of `stop`'s signal: nothing is cut off."""
        self.is_asked_to_stop = True


@contextmanager
def interruption() -> Generator[Interruption]:
    """Handles SIGINT and SIGTERM while a sweep runs; on another thread than the main one it does nothing."""
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    # Tune takes SIGUSR1 and never gives it back.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, STOP_SIGNAL)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, found.handle)
    signal.signal(signal.SIGTERM, found.handle)
    signal.signal(STOP_SIGNAL, found.note_stop)
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
