"""Sweeps in a storage, which other machines run: looked at, without their lease, and nothing is written."""

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
    """Returns where the ledger of a sweep lies in a storage."""
    return f"sweeps/{sweep}/ledger"


def segment_names(storage: Storage, sweep: str) -> list[str]:
    """Returns the names of the ledger's segments in the storage, the oldest first.

    Beside them may lie what a driver is writing, or had half written when it was killed.
    """
    return [name for name in storage.names(ledger_key(sweep)) if _SEGMENT.fullmatch(name)]


def read_segments(storage: Storage, sweep: str) -> Iterator[tuple[str, bytes]]:
    """Yields the segments of a sweep's ledger in the storage: name and content, the oldest first.

    Raises:
        StorageError: it does not answer, or the sweep is being deleted there.
    """
    for name in segment_names(storage, sweep):
        try:
            content = storage.get_bytes(f"{ledger_key(sweep)}/{name}")
        except FileNotFoundError as error:
            raise _gone(storage, sweep) from error
        yield name, content


def copy_segments(storage: Storage, folder: Path) -> None:
    """Brings the ledger of the sweep `folder.name` into that folder, each segment in one step.

    A driver may be writing: it copies whole lines, and opens no segment before the last one is whole.

    Raises:
        StorageError: see `read_segments`.
    """
    ledger = folder / "ledger"
    ledger.mkdir(parents=True, exist_ok=True)
    for name, content in read_segments(storage, folder.name):
        aside = ledger / f".{name}"
        aside.write_bytes(content)
        aside.replace(ledger / name)


def sweeps_in(storage: Storage) -> list[str]:
    """Returns the names of the sweeps in a storage.

    Raises:
        StorageError: it does not answer, or is not there.
    """
    return list(_ledgers(storage))


def _ledgers(storage: Storage) -> dict[str, list[str]]:
    """Returns the segments of every sweep; a name that none can have here may lead out of a folder."""
    if names := storage.names("sweeps"):
        named = filter(is_sweep_name, names)
        segments = at_once(lambda name: segment_names(storage, name), named)
        return {name: found for name, found in segments.items() if found}
    storage.check_there()
    return {}


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
        StorageError: it does not answer, is not there, or a sweep is being deleted there.
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
    """Yields a folder with a copy of a sweep's ledger, for as long as it is looked at.

    Args:
        storage: where it lies.
        name: of the sweep.
        here: the sweeps of this machine, to say what else was meant.

    Raises:
        DataError: no such sweep; offers the nearest name.
        StorageError: the storage does not answer, is not there, or the sweep is being deleted there.
    """
    if not segment_names(storage, name):
        raise no_such_sweep(storage, name, here)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        copy_segments(storage, Path(folder, name))
        yield Path(folder, name)


def _gone(storage: Storage, sweep: str) -> StorageError:
    return StorageError(
        f"storage {storage.uri}: the ledger of '{sweep}' was there and is gone; is somebody deleting the "
        "sweep? If not, run the command again"
    )
