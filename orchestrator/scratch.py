"""Ray's own files of one attempt, on the node that watches it: a folder that is gone when it has ended.

A driver empties its scratch folder by itself. A node of another home has one that no driver sees.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

IN_USE = "in-use.lock"
"""In each such folder: held by the process that works there, and dropped by the kernel with it."""


@contextmanager
def attempt_scratch(scratch: Path, name: str) -> Generator[Path]:
    """Yields a new folder below `scratch`, and deletes it; also those of attempts that were killed."""
    scratch.mkdir(parents=True, exist_ok=True)
    delete_abandoned(scratch)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
    aside = folder / f".{IN_USE}"
    try:
        with aside.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            aside.rename(folder / IN_USE)  # nobody ever sees it without its holder
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_abandoned(scratch: Path) -> None:
    """Deletes the folders whose attempt has ended; what holds no lock of ours is not touched."""
    for lock in scratch.glob(f"*/{IN_USE}"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, gone in the meantime, or another user's
            continue
