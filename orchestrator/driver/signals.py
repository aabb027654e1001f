"""Handles Ctrl-C, SIGTERM and the command `stop`.

The first Ctrl-C or SIGTERM shuts the sweep down cleanly, and the second ends it at once. `stop` waits for the
end of the running epochs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from orchestrator.storage.driver_lock import STOP_SIGNAL


class Stopped(Exception):
    """The user ended the sweep. Unfinished work is lost, and a resumed sweep repeats it."""


class StopRequest:
    """The user's request to end the sweep, if there is one."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.is_gentle = False  # True = a signal ends Tune; False = it raises KeyboardInterrupt
        self.is_asked_to_stop = False  # after the running epochs

    @property
    def exit_code(self) -> int:
        """Returns 128 + the number of the signal (`stop` counts as Ctrl-C); 0 = no request."""
        number = self.signal_number or (signal.SIGINT if self.is_asked_to_stop else None)
        return 128 + number if number else 0

    @contextmanager
    def gently(self) -> Generator[None]:
        """Lets a signal end Tune's loop after its current step, so that Tune stops its processes."""
        self.is_gentle = True
        try:
            yield
        finally:
            self.is_gentle = False

    def interrupt(self) -> None:
        """Records a Ctrl-C that arrived as an exception."""
        self.signal_number = self.signal_number or signal.SIGINT

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """Handles SIGINT and SIGTERM."""
        is_first, self.signal_number = self.signal_number is None, signal_number
        if self.is_gentle and is_first and callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)  # Tune's own way to end early
        else:
            raise KeyboardInterrupt

    def note_stop(self, signal_number: int, frame: FrameType | None) -> None:
        """Handles the signal of the command `stop`, without interrupting anything."""
        self.is_asked_to_stop = True


@contextmanager
def stop_requests() -> Generator[StopRequest]:
    """Handles signals while a sweep runs, if this is the main thread; yields the request."""
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
