"""Fixtures that tests of the orchestrator share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from sweep_process import STARTED


@pytest.fixture(autouse=True)
def no_driver_is_left() -> Iterator[None]:
    """Kills the drivers that a failed test leaves, so that no other test is blamed for them."""
    yield
    for driver in STARTED:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)  # a session of its own: its workers too
        if not (driver.stdout is None or driver.stdout.closed):
            driver.communicate()
    STARTED.clear()
