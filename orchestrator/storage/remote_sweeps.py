"""Reads sweeps of other machines from a storage. Takes no lease and writes nothing to the storage."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage.paths import is_sweep_name
from orchestrator.storage.store import Storage, StorageError, at_once
from trainables.config.fields import did_you_mean
from trainables.errors import DataError
from trainables.shell import command

_SEGMENT = re.compile(r"segment-[0-9]{5}\.jsonl")


def ledger_key(sweep: str) -> str:
    """Returns the key of a sweep's ledger in a storage."""
    return f"sweeps/{sweep}/ledger"


def segment_names(storage: Storage, sweep: str) -> list[str]:
    """Returns the names of a ledger's complete segments in the storage, from the oldest to the newest."""
    return [name for name in storage.names(ledger_key(sweep)) if _SEGMENT.fullmatch(name)]


def read_segments(storage: Storage, sweep: str) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each segment of a ledger in the storage, oldest first.

    Raises:
        StorageError: somebody is deleting the sweep, or the storage does not answer.
    """
    for name in segment_names(storage, sweep):
        try:
            content = storage.get_bytes(f"{ledger_key(sweep)}/{name}")
        except FileNotFoundError as error:
            raise _gone(storage, sweep) from error
        yield name, content


def copy_segments(storage: Storage, folder: Path) -> None:
    """Copies the ledger of the sweep `folder.name` from the storage to `folder`, even while it grows."""
    ledger = folder / "ledger"
    ledger.mkdir(parents=True, exist_ok=True)
    for name, content in read_segments(storage, folder.name):
        aside = ledger / f".{name}"
        aside.write_bytes(content)
        aside.replace(ledger / name)


def sweeps_in(storage: Storage) -> list[str]:
    """Returns the names of the sweeps in a storage."""
    return list(_ledgers(storage))


def _ledgers(storage: Storage) -> dict[str, list[str]]:
    """Returns the segments of each sweep with a valid name. Other names could be paths outside it."""
    if names := storage.names("sweeps"):
        named = filter(is_sweep_name, names)
        segments = at_once(lambda name: segment_names(storage, name), named)
        return {name: found for name, found in segments.items() if found}
    storage.check_there()
    return {}


def no_such_sweep(storage: Storage, name: str, here: Sequence[str]) -> DataError:
    """Returns the error for a sweep that is neither in the storage nor on this machine."""
    there = sweeps_in(storage)
    hint = did_you_mean(name, [*there, *here])
    return DataError(
        f"no sweep '{name}' on this machine or in {storage.uri} (has: {', '.join(there) or 'none'}){hint}"
    )


def newest_in(storage: Storage) -> str:
    """Returns the name of the sweep in the storage whose ledger was written last.

    Raises:
        DataError: the storage has no sweep.
    """
    segments = _ledgers(storage)

    def written(name: str) -> float:
        try:
            return storage.modified(f"{ledger_key(name)}/{segments[name][-1]}")
        except FileNotFoundError as error:
            raise _gone(storage, name) from error

    if when := at_once(written, segments):
        return max(when, key=lambda name: when[name])
    raise DataError(
        f"no sweep in {storage.uri}; start one: " + command(f"sweep SPACE --storage '{storage.uri}'")
    )


@contextmanager
def copied(storage: Storage, name: str, here: Sequence[str]) -> Generator[Path]:
    """Yields a temporary folder with a copy of a sweep's ledger.

    Args:
        storage: the storage with the sweep.
        name: name of the sweep.
        here: names of the sweeps on this machine, which the error message may suggest too.

    Raises:
        DataError: the sweep does not exist; the message suggests the nearest name.
    """
    if not segment_names(storage, name):
        raise no_such_sweep(storage, name, here)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        copy_segments(storage, Path(folder, name))
        yield Path(folder, name)


def _gone(storage: Storage, sweep: str) -> StorageError:
    return StorageError(
        f"storage {storage.uri}: a file of the ledger of '{sweep}' has just disappeared; if nobody is "
        "deleting the sweep, run the command again"
    )
