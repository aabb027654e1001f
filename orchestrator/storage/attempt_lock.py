"""A trial's attempts: one at a time works in its folder, and each goes on where the last one got to."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import ClusterError

# Imports inside functions: torch takes seconds to load, and what only checks needs none of it.

PATIENCE_SECONDS = 120.0
"""Ray's processes end seconds after a driver that was killed, and an NFS server keeps the locks of a lost
node for 90 s; who goes on at once waits so long."""
POLL_SECONDS = 0.1
CHECKPOINTS = "checkpoints"
"""A trial's own, below its folder."""


@contextmanager
def taken_over(
    workdir: Path,
    attempt: int,
    *,
    find: Callable[[], tuple[Path | None, list[str]]] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Generator[tuple[Path | None, list[str]]]:
    """Holds a trial's folder for an attempt; yields the checkpoint to go on from, and what was damaged.

    No checkpoint = the start. Every process of the attempt enters here. Nobody writes while the checkpoint is
    looked for, as all earlier attempts have ended, so all ranks find the same one. `find` looks for it, also
    beyond this machine; none = in the trial's folder.

    Raises:
        ClusterError: an earlier attempt, left by a driver that was killed, does not end.
        DataError: there are checkpoints, and all of them are damaged.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    for earlier in range(1, attempt):
        with _lock_of(workdir, earlier).open("a") as file:
            while not _acquired(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{workdir}: a process of attempt {earlier} still works there, left over by a sweep "
                        "that was killed; end it, then sweep --resume NAME --retry-failed"
                    )
                time.sleep(POLL_SECONDS)
    with _lock_of(workdir, attempt).open("a") as file:  # the kernel drops it with the process
        fcntl.flock(file, fcntl.LOCK_SH)
        yield find() if find is not None else find_checkpoint(workdir)


def ran_here(workdir: Path, attempt: int) -> bool:
    """Says whether all attempts before this one worked in this very folder."""
    return all(_lock_of(workdir, earlier).exists() for earlier in range(1, attempt))


def find_checkpoint(workdir: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest sound checkpoint of a trial, None where there is none, and what was damaged."""
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        return None, []
    from trainables.training.checkpoint import latest_checkpoint

    return latest_checkpoint(folder)


def _lock_of(workdir: Path, attempt: int) -> Path:
    return workdir / f"attempt-{attempt}.lock"


def _acquired(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
