"""The lock of a trial's folder. One attempt at a time holds it and continues from the newest checkpoint."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import ClusterError

PATIENCE_SECONDS = 120.0
"""How long an attempt waits for the processes of the earlier attempt. After a driver is killed, Ray's
processes end within seconds. After a node is lost, an NFS server keeps its locks for 90 s."""
POLL_SECONDS = 0.1
CHECKPOINTS = "checkpoints"
"""Folder of a trial's checkpoints, in the trial's folder."""


@contextmanager
def taken_over(
    workdir: Path,
    attempt: int,
    *,
    find: Callable[[], tuple[Path | None, list[str]]] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Generator[tuple[Path | None, list[str]]]:
    """Holds a trial's folder for an attempt, and yields its newest sound checkpoint and the damaged ones.

    The checkpoint is None at the start of a trial. Every process of the attempt must call this function. It
    waits until all earlier attempts have ended, so all ranks find the same checkpoint.

    Args:
        workdir: the trial's folder.
        attempt: number of this attempt, from 1.
        find: function that finds the checkpoint. Default: `find_checkpoint` in the folder.
        patience_seconds: how long to wait for the end of earlier attempts.

    Raises:
        ClusterError: a process of an earlier attempt does not end.
        DataError: all checkpoints are damaged.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    for earlier in range(1, attempt):
        with _lock_of(workdir, earlier).open("a") as file:
            while not _is_acquired(file.fileno()):
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{workdir}: a process of attempt {earlier} still uses this folder; its sweep was "
                        "killed. End the process, then run: sweep --resume NAME --retry-failed"
                    )
                time.sleep(POLL_SECONDS)
    with _lock_of(workdir, attempt).open("a") as file:  # the kernel releases it when the process ends
        fcntl.flock(file, fcntl.LOCK_SH)
        yield find() if find is not None else find_checkpoint(workdir)


def ran_here(workdir: Path, attempt: int) -> bool:
    """Returns whether all earlier attempts ran in this folder on this machine."""
    return all(_lock_of(workdir, earlier).exists() for earlier in range(1, attempt))


def find_checkpoint(workdir: Path) -> tuple[Path | None, list[str]]:
    """Returns a trial's newest sound checkpoint (or None) and a list of damaged checkpoints."""
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        return None, []
    # Imports torch, which a trial without checkpoints does not need yet.
    from trainables.training.checkpoint import latest_checkpoint

    return latest_checkpoint(folder)


def _lock_of(workdir: Path, attempt: int) -> Path:
    return workdir / f"attempt-{attempt}.lock"


def _is_acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
