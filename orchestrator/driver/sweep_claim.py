"""Claims a sweep for this driver: its name, its folder and ledger, its lease in the storage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from orchestrator.driver.resume import read_started
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.store import Storage
from trainables.errors import ConfigError


@contextmanager
def claimed(space_name: str, name: str | None, *, resumes: bool) -> Generator[tuple[Path, Ledger]]:
    """Yields the folder and the ledger of a sweep; deletes those of a new one if nothing was started.

    Raises:
        ConfigError: the name is in use; suggests a free one.
        DataError: no sweep of this name exists.
        ClusterError: another process runs the sweep, or is starting it.
    """
    name = name or free_name(f"{space_name}-{datetime.now():%Y%m%d-%H%M%S}")
    folder = sweep_folder(name)
    if resumes:
        read_started(name)
    elif is_taken(folder):
        raise ConfigError(
            f"sweep '{name}' exists already; resume it (--resume {name}), or choose another name, such as "
            f"--name {free_name(name)}"
        )
    with Ledger(folder) as ledger:
        try:
            yield folder, ledger
        finally:
            if not is_taken(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mirrored(
    storage: Storage | None, folder: Path, say: Callable[[str], None], *, resumes: bool, is_shared: bool
) -> Generator[Mirror | None]:
    """Holds the sweep's lease in its storage and copies its ledger there; without a storage yields None.

    Raises:
        ClusterError: another driver holds the lease, or the name is taken there.
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
    """Says whether a sweep was ever started here; an incomplete first line does not count."""
    return any(b"\n" in path.read_bytes() for path in folder.glob("ledger/segment-00000.jsonl"))


def free_name(name: str) -> str:
    """Returns `name`, or `name-2`, `name-3`, …: the first that no sweep has."""
    number, candidate = 1, name
    while is_taken(sweep_folder(candidate)):
        number += 1
        candidate = f"{name}-{number}"
    return candidate
