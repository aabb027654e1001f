"""Claims a sweep for this driver: its name, its folder, its ledger and its lease in the storage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from orchestrator.driver.resume import read_started
from orchestrator.storage.driver_lock import running_driver
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.store import Storage
from trainables.errors import ClusterError, ConfigError


@contextmanager
def claimed(space_name: str, name: str | None, *, resumes: bool) -> Generator[tuple[Path, Ledger]]:
    """Yields the folder and the ledger of a sweep. Deletes both if a new sweep did not start.

    Args:
        space_name: name of the search space.
        name: name of the sweep; None = the space's name and the time, with a number if it is in use.
        resumes: whether the sweep exists already.

    Raises:
        ConfigError: the name is in use; suggests a free name.
        DataError: no sweep has this name.
        ClusterError: another process runs or starts the sweep.
    """
    if name is None:
        folder, opened = open_new(f"{space_name}-{datetime.now():%Y%m%d-%H%M%S}")
    else:
        folder, opened = open_named(name, resumes=resumes)
    with opened as ledger:
        try:
            yield folder, ledger
        finally:
            if not is_taken(folder):
                shutil.rmtree(folder, ignore_errors=True)


def open_named(name: str, *, resumes: bool) -> tuple[Path, Ledger]:
    """Returns the folder and the ledger of the sweep with this name, which is new or is resumed."""
    folder = sweep_folder(name)
    if resumes:
        read_started(name)
    elif is_taken(folder):
        raise ConfigError(
            f"sweep '{name}' exists already; resume it (--resume {name}), or choose another name, such as "
            f"--name {free_name(name)}"
        )
    return folder, Ledger(folder)


def open_new(name: str) -> tuple[Path, Ledger]:
    """Returns the folder and the ledger of a new sweep. Adds a number to the name if it is in use.

    Sweeps that start in the same second get different names.
    """
    while True:
        folder = sweep_folder(free_name(name))
        try:
            ledger = Ledger(folder)
        except ClusterError:  # another driver took the name at this moment
            continue
        if not is_taken(folder):
            return folder, ledger
        ledger.close()


@contextmanager
def mirrored(
    storage: Storage | None, folder: Path, say: Callable[[str], None], *, resumes: bool, is_shared: bool
) -> Generator[Mirror | None]:
    """Holds the sweep's lease in the storage, and copies the ledger to it. Yields None without a storage.

    Raises:
        ClusterError: another driver holds the lease, or another sweep in the storage has the name.
    """
    if storage is None:
        yield None
        return
    mirror = Mirror(storage, folder, say, is_shared=is_shared)
    mirror.start(resumes=resumes)
    try:
        yield mirror
    finally:
        mirror.finish()


def is_taken(folder: Path) -> bool:
    """Says whether the folder holds a started sweep; an incomplete first ledger line does not count."""
    return any(b"\n" in path.read_bytes() for path in folder.glob("ledger/segment-00000.jsonl"))


def free_name(name: str) -> str:
    """Returns the first of `name`, `name-2`, `name-3`, … that no sweep has and no driver is starting."""
    number, candidate = 1, name
    while is_taken(folder := sweep_folder(candidate)) or running_driver(folder) is not None:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
