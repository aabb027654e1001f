"""One trial's files between its node and the storage of its sweep, which are laid out alike."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.storage import input_staging
from orchestrator.storage.attempt_lock import CHECKPOINTS, find_checkpoint, ran_here
from orchestrator.storage.store import Storage, StorageError
from trainables.artifacts import is_whole, locked, write_atomically
from trainables.errors import DataError

# Imports inside functions: torch takes seconds to load, and what only checks needs none of it.

RESULTS = "results"
KEPT = "kept.json"
"""In a trial's folder: the folders of the store that it made or used, relative to the home."""
LAST_WORDS = "last-words"
"""In the storage: why an attempt failed, by its number."""
PATIENCE_SECONDS = 30.0
"""How long a storage that did not answer is not asked again, while a trial runs."""


@dataclass
class TrialFiles:
    """Without a storage nothing happens: the files stay where they are.

    A trial does not fail because its checkpoint could not be put away: the next one is tried, and the driver
    completes what it has itself.
    """

    home: Path
    workdir: Path
    storage: Storage | None = None
    warnings: list[str] = field(default_factory=list[str])  # what went wrong and was done without
    asks_again: float | None = None  # when, by the monotonic clock; None = the storage answers

    def key(self, path: Path) -> str:
        """Returns where a file of this home lies in the storage."""
        return path.relative_to(self.home).as_posix()

    def bring_inputs(self, wanted: Mapping[str, str]) -> None:
        """Fetches the data and the weights that this node lacks."""
        if self.storage is not None:
            input_staging.bring(self.storage, wanted, self.home / "store")

    def bring_checkpoint(self, attempt: int) -> tuple[Path | None, list[str]]:
        """Returns the newest sound checkpoint, fetched if the storage has a later one, and what was damaged.

        Raises:
            DataError: there are checkpoints, and all of them are damaged.
            StorageError: earlier attempts were elsewhere, and the storage does not say how far they got.
        """
        damages: list[str] = []
        if self.storage is not None:
            try:
                with locked(self.workdir / ".fetch.lock"):  # ranks of one node fetch it once
                    damages = self._fetch_checkpoint(self.storage)
            except StorageError as error:
                if not ran_here(self.workdir, attempt):
                    raise
                self.warnings.append(f"{error}; it goes on from what is on this machine")
        try:
            place, here = find_checkpoint(self.workdir)
        except DataError as error:
            raise DataError("; ".join([str(error), *damages])) from error
        if place is None and damages:
            raise DataError(f"no sound checkpoint is left: {'; '.join(damages)}")
        return place, here + damages

    def _fetch_checkpoint(self, storage: Storage) -> list[str]:
        """Fetches the newest checkpoint that is sound there, unless it is here; returns what is damaged."""
        folder = self.workdir / CHECKPOINTS
        damages: list[str] = []
        for name in sorted(steps_in(storage, self.key(folder)), reverse=True):
            if is_whole(folder / name):
                break
            try:
                storage.get_folder(f"{self.key(folder)}/{name}", folder / name)
                break
            except FileNotFoundError:  # never finished
                continue
            except DataError as error:
                damages.append(str(error))
        return damages

    def keep_checkpoints(self) -> None:
        """Copies new checkpoints into the storage, and deletes those that are gone here."""
        folder = self.workdir / CHECKPOINTS
        if self.storage is None or not folder.is_dir():
            return
        storage, key = self.storage, self.key(folder)
        from trainables.training.checkpoint import NUM_KEPT, newest_first

        here = {place.name for place in newest_first(folder)[:NUM_KEPT] if is_whole(place)}

        def copy() -> None:
            there = steps_in(storage, key)
            for name in sorted(here - {name for name in there if storage.is_whole(f"{key}/{name}")}):
                storage.put_folder(folder / name, f"{key}/{name}")
            for name in there - here:
                storage.delete(f"{key}/{name}")

        self._try(copy)

    def keep_results(self) -> None:
        """Copies the trial's results into the storage, where the driver finds them."""
        if self.storage is not None and (self.workdir / RESULTS).is_dir():
            storage, folder = self.storage, self.workdir / RESULTS
            self._try(lambda: storage.put_folder(folder, self.key(folder)), at_once=True)

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints here of a trial that is done; the storage has them until it is recorded."""
        if self.storage is not None and self.asks_again is None:
            shutil.rmtree(self.workdir / CHECKPOINTS, ignore_errors=True)

    def keep_words(self, attempt: int, path: Path) -> None:
        """Copies what an attempt said of its failure into the storage."""
        if self.storage is not None:
            storage, place = self.storage, self.words(attempt)
            self._try(lambda: storage.put_bytes(f"{place}/{path.name}", path.read_bytes()), at_once=True)

    def bring_words(self, attempt: int) -> None:
        """Fetches what processes of an attempt said on other nodes."""
        if self.storage is None:
            return
        storage, place = self.storage, self.words(attempt)

        def copy() -> None:
            for name in storage.names(place):
                if not (self.workdir / Path(name).name).exists():
                    self.workdir.mkdir(parents=True, exist_ok=True)
                    (self.workdir / Path(name).name).write_bytes(storage.get_bytes(f"{place}/{name}"))

        self._try(copy, at_once=True)

    def words(self, attempt: int) -> str:
        """Returns where an attempt's last words lie in the storage."""
        return f"{self.key(self.workdir)}/{LAST_WORDS}/{attempt}"

    def fetch(self, folder: Path) -> None:
        """Fetches a finished folder of the store, if the storage has it and this home does not."""
        if self.storage is None or is_whole(folder):
            return
        storage, key = self.storage, self.key(folder)

        def copy() -> None:
            with locked(folder.with_name(f".{folder.name}.lock")):
                if not is_whole(folder) and storage.is_whole(key):
                    storage.get_folder(key, folder)

        try:
            self._try(copy)
        except DataError as error:  # it is made again
            self.warnings.append(f"made again, as it is damaged in the storage: {error}")

    def keep(self, folder: Path) -> None:
        """Records that the trial uses a finished folder of the store, and copies it into the storage."""
        key, kept = self.key(folder), kept_by(self.workdir)
        if key not in kept:
            self.workdir.mkdir(parents=True, exist_ok=True)
            write_atomically(self.workdir / KEPT, json.dumps([*kept, key]))
        if self.storage is not None:
            storage = self.storage
            self._try(lambda: storage.is_whole(key) or storage.put_folder(folder, key))

    def _try(self, copy: Callable[[], object], *, at_once: bool = False) -> None:
        """Does without the storage while it is away, and says so once; `at_once`: there is no later try."""
        if not at_once and self.asks_again is not None and time.monotonic() < self.asks_again:
            return
        try:
            copy()
            self.asks_again = None
        except StorageError as error:
            if self.asks_again is None:
                self.warnings.append(f"{error}; the trial goes on, its files stay on its node for now")
            self.asks_again = time.monotonic() + PATIENCE_SECONDS


def steps_in(storage: Storage, key: str) -> set[str]:
    """Returns the checkpoints that lie in the storage, whole or not."""
    return {name for name in storage.names(key) if name.startswith("step-")}


def kept_by(workdir: Path) -> list[str]:
    """Returns the folders of the store that a trial made or used, relative to the home."""
    path = workdir / KEPT
    return json.loads(path.read_text()) if path.is_file() else []
