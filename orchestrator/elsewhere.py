"""Sweeps in a storage, which other machines run: looked at, without their lease, and nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage import Storage, at_once
from trainables.errors import DataError
from trainables.fields import did_you_mean


def ledger_key(sweep: str) -> str:
    """Returns where the ledger of a sweep lies in a storage."""
    return f"sweeps/{sweep}/ledger"


def read_segments(storage: Storage, sweep: str) -> list[str]:
    """Returns the names of the ledger's segments in the storage."""
    return [name for name in storage.names(ledger_key(sweep)) if name.startswith("segment-")]


def copy_segments(storage: Storage, folder: Path) -> None:
    """Brings the ledger of the sweep `folder.name` into that folder, each segment in one step.

    A driver may be writing: it copies whole lines, and opens no segment before the last one is whole.
    """
    ledger = folder / "ledger"
    ledger.mkdir(parents=True, exist_ok=True)
    for name in read_segments(storage, folder.name):
        aside = ledger / f".{name}"
        aside.write_bytes(storage.get_bytes(f"{ledger_key(folder.name)}/{name}"))
        aside.replace(ledger / name)


def sweeps_in(storage: Storage) -> list[str]:
    """Returns the names of the sweeps in a storage.

    Raises:
        StorageError: it does not answer, or is not there.
    """
    if names := storage.names("sweeps"):
        segments = at_once(lambda name: read_segments(storage, name), names)
        return [name for name in names if segments[name]]
    storage.check_there()
    return []


def no_such_sweep(storage: Storage, name: str, here: Sequence[str]) -> DataError:
    """Returns what to say of a name that is neither in the storage nor among the sweeps of this machine."""
    there = sweeps_in(storage)
    hint = did_you_mean(name, [*there, *here])
    return DataError(
        f"no sweep '{name}' in {storage.uri} (there: {', '.join(there) or 'none'}), nor on this machine{hint}"
    )


def newest_in(storage: Storage) -> str:
    """Returns the sweep whose ledger was written last.

    Raises:
        DataError: there is none.
        StorageError: it does not answer, or is not there.
    """

    def written(name: str) -> float:
        return storage.modified(f"{ledger_key(name)}/{read_segments(storage, name)[-1]}")

    if when := at_once(written, sweeps_in(storage)):
        return max(when, key=lambda name: when[name])
    raise DataError(
        f"no sweep in {storage.uri}; start one: python -m orchestrator sweep SPACE --storage '{storage.uri}'"
    )


@contextmanager
def copied(storage: Storage, name: str, here: Sequence[str]) -> Generator[Path]:
    """Yields a folder with a copy of a sweep's ledger, for as long as it is looked at.

    Args:
        storage: where it lies.
        name: of the sweep.
        here: the sweeps of this machine, to say what else was meant.

    Raises:
        DataError: no such sweep; offers the nearest name.
        StorageError: the storage does not answer, or is not there.
    """
    if not read_segments(storage, name):
        raise no_such_sweep(storage, name, here)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        copy_segments(storage, Path(folder, name))
        yield Path(folder, name)
