"""Ctrl-C, SIGTERM and `stop`.

The first Ctrl-C or SIGTERM ends a sweep in order, the second one at once; `stop` lets running epochs end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from orchestrator.storage.driver_lock import STOP_SIGNAL


class Stopped(Exception):
    """The user ended the sweep: unfinished work is given up, and repeated by a resumed sweep."""


class StopRequest:
    """Whether the user asked the sweep to end, and how."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.is_gentle = False  # a signal asks Tune to end, instead of raising KeyboardInterrupt
        self.is_asked_to_stop = False  # after the running epochs

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it (`stop`: that of Ctrl-C); 0 = no request."""
        number = self.signal_number or (signal.SIGINT if self.is_asked_to_stop else None)
        return 128 + number if number else 0

    @contextmanager
    def gently(self) -> Generator[None]:
        """Wraps Tune's loop, which ends after its current step and stops its processes."""
        self.is_gentle = True
        try:
            yield
        finally:
            self.is_gentle = False

    def interrupt(self) -> None:
        """Notes a Ctrl-C that arrived as an exception."""
        self.signal_number = self.signal_number or signal.SIGINT

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """Handles SIGINT and SIGTERM."""
        is_first, self.signal_number = self.signal_number is None, signal_number
        if self.is_gentle and is_first and callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)  # Tune's own way to end early
        else:
            raise KeyboardInterrupt

    def note_stop(self, signal_number: int, frame: FrameType | None) -> None:
        """Handles the signal of `stop`, which interrupts nothing."""
        self.is_asked_to_stop = True


@contextmanager
def stop_requests() -> Generator[StopRequest]:
    """Handles signals while a sweep runs; only on the main thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # Tune installs a handler for SIGUSR1 and never restores the old one.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, STOP_SIGNAL)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, request.handle)
    signal.signal(signal.SIGTERM, request.handle)
    signal.signal(STOP_SIGNAL, request.note_stop)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
