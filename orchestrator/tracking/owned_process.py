"""Starts and ends an owned process. It ends, with all its children, when this process ends or dies."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from orchestrator.storage.paths import home

POLL_SECONDS = 0.5


def start_owned(
    module: str, *arguments: str, env: Mapping[str, str], stdout: IO[bytes] | int, stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts `python -m MODULE ARGUMENTS`, which must end when its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,  # closed when this process ends or dies
        stdout=stdout,
        stderr=stderr,
        cwd=home(),  # the user's folder may have an old ./mlruns
        env=env,
        start_new_session=True,  # makes a new process group, which Ctrl-C does not reach
    )


def end_owned(process: subprocess.Popen[bytes], timeout_seconds: float | None) -> int | None:
    """Closes the input of a process, waits for its end, and returns its exit status.

    Then kills the rest of its process group. The status is None if the process itself had to be killed.
    """
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_ended(descriptor: int, seconds: float) -> bool:
    """Waits until a pipe is closed, at most `seconds`, and returns whether it is closed."""
    readable, _, _ = select.select([descriptor], [], [], seconds)
    return bool(readable) and not os.read(descriptor, 1)
