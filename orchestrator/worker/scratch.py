"""Manages the scratch folders of Ray Train, one for each attempt; deletes those of killed attempts."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

IN_USE = "in-use.lock"
"""Lock file in each scratch folder. The attempt's process holds the lock until the process ends."""


@contextmanager
def attempt_scratch(scratch: Path, name: str) -> Generator[Path]:
    """Yields a new folder in `scratch` and deletes it afterwards. Also deletes folders of killed attempts."""
    scratch.mkdir(parents=True, exist_ok=True)
    delete_abandoned(scratch)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
    aside = folder / f".{IN_USE}"
    try:
        with aside.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            aside.rename(folder / IN_USE)  # the file never exists unlocked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_abandoned(scratch: Path) -> None:
    """Deletes the folders of attempts that ended. Folders without our lock file are kept."""
    for lock in scratch.glob(f"*/{IN_USE}"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, already deleted, or owned by another user
            continue
