"""Copies one trial's files between its node and the storage of the sweep. The paths are the same in both."""

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

RESULTS = "results"
KEPT = "kept.json"
"""File in a trial's folder. It lists the store folders that the trial made or used, relative to the home."""
LAST_WORDS = "last-words"
"""Folder in the storage with the reasons why attempts failed, by attempt."""
PATIENCE_SECONDS = 30.0
"""While a trial runs, a storage that did not answer is tried again after this time."""


@dataclass
class TrialFiles:
    """The files of one trial. Without a storage, nothing is copied.

    If a file cannot be uploaded, the trial does not fail. The driver uploads it later from its own disk.
    """

    home: Path
    workdir: Path
    storage: Storage | None = None
    warnings: list[str] = field(default_factory=list[str])  # problems that did not stop the trial
    asks_again: float | None = None  # monotonic time to try the storage again; None: it answers

    def key(self, path: Path) -> str:
        """Returns the storage key of a file below the home."""
        return path.relative_to(self.home).as_posix()

    def fetch_inputs(self, wanted: Mapping[str, str]) -> None:
        """Fetches the data and the weights that this node lacks."""
        if self.storage is not None:
            input_staging.fetch_inputs(self.storage, wanted, self.home / "store")

    def fetch_checkpoint(self, attempt: int) -> tuple[Path | None, list[str]]:
        """Returns the newest sound checkpoint on this node or in the storage, and a list of damaged ones.

        Raises:
            DataError: all checkpoints are damaged.
            StorageError: the storage does not answer, and earlier attempts ran on other nodes.
        """
        damages: list[str] = []
        if self.storage is not None:
            try:
                with locked(self.workdir / ".fetch.lock"):  # one rank of a node fetches
                    damages = self._fetch_newest(self.storage)
            except StorageError as error:
                if not ran_here(self.workdir, attempt):
                    raise
                self.warnings.append(f"{error}; the trial continues from the checkpoint on this machine")
        try:
            place, here = find_checkpoint(self.workdir)
        except DataError as error:
            raise DataError("; ".join([str(error), *damages])) from error
        if place is None and damages:
            raise DataError(f"no sound checkpoint is left: {'; '.join(damages)}")
        return place, here + damages

    def _fetch_newest(self, storage: Storage) -> list[str]:
        """Fetches the newest sound checkpoint if this node lacks it. Returns messages on damaged ones."""
        folder = self.workdir / CHECKPOINTS
        damages: list[str] = []
        for name in sorted(steps_in(storage, self.key(folder)), reverse=True):
            if is_whole(folder / name):
                break
            try:
                storage.get_folder(f"{self.key(folder)}/{name}", folder / name)
                break
            except FileNotFoundError:  # its upload was never finished
                continue
            except DataError as error:
                damages.append(str(error))
        return damages

    def upload_checkpoints(self) -> None:
        """Uploads new checkpoints. Deletes from the storage each checkpoint that this node has deleted."""
        folder = self.workdir / CHECKPOINTS
        if self.storage is None or not folder.is_dir():
            return
        # Imports torch, which the driver does not need.
        from trainables.training.checkpoint import NUM_KEPT, newest_first

        key = self.key(folder)
        here = {place.name for place in newest_first(folder)[:NUM_KEPT] if is_whole(place)}

        def upload(storage: Storage) -> None:
            known = steps_in(storage, key)
            for name in sorted(here - {name for name in known if storage.is_whole(f"{key}/{name}")}):
                storage.put_folder(folder / name, f"{key}/{name}")
            for name in known - here:
                storage.delete(f"{key}/{name}")

        self._try(upload)

    def upload_results(self) -> None:
        """Uploads the trial's results. The driver fetches them."""
        if (folder := self.workdir / RESULTS).is_dir():
            self._try(lambda storage: storage.put_folder(folder, self.key(folder)), is_last=True)

    def delete_checkpoints(self) -> None:
        """Deletes a finished trial's checkpoints on this node; the driver deletes those in the storage."""
        if self.storage is not None and self.asks_again is None:
            shutil.rmtree(self.workdir / CHECKPOINTS, ignore_errors=True)

    def upload_failure(self, attempt: int, path: Path) -> None:
        """Uploads a file with the reason why an attempt failed."""

        def upload(storage: Storage) -> None:
            storage.put_bytes(f"{self._failures_of(attempt)}/{path.name}", path.read_bytes())

        self._try(upload, is_last=True)

    def fetch_failures(self, attempt: int) -> None:
        """Fetches the reasons for the failure of an attempt, from its processes on other nodes."""

        def fetch(storage: Storage) -> None:
            key = self._failures_of(attempt)
            for name in storage.names(key):
                if not (self.workdir / Path(name).name).exists():
                    self.workdir.mkdir(parents=True, exist_ok=True)
                    (self.workdir / Path(name).name).write_bytes(storage.get_bytes(f"{key}/{name}"))

        self._try(fetch, is_last=True)

    def _failures_of(self, attempt: int) -> str:
        return f"{self.key(self.workdir)}/{LAST_WORDS}/{attempt}"

    def fetch(self, folder: Path) -> None:
        """Fetches a finished store folder that the storage has and this node lacks."""
        if is_whole(folder):
            return

        def fetch(storage: Storage) -> None:
            with locked(folder.with_name(f".{folder.name}.lock")):
                if not is_whole(folder) and storage.is_whole(self.key(folder)):
                    storage.get_folder(self.key(folder), folder)

        try:
            self._try(fetch)
        except DataError as error:
            self.warnings.append(f"a damaged entry of the storage is computed again: {error}")

    def keep(self, folder: Path) -> None:
        """Records that the trial uses a finished store folder, and uploads the folder."""
        key, kept = self.key(folder), kept_by(self.workdir)
        if key not in kept:
            self.workdir.mkdir(parents=True, exist_ok=True)
            write_atomically(self.workdir / KEPT, json.dumps([*kept, key]))
        self._try(lambda storage: storage.is_whole(key) or storage.put_folder(folder, key))

    def _try(self, copy: Callable[[Storage], object], *, is_last: bool = False) -> None:
        """Calls `copy` if there is a storage. Warns once while the storage does not answer.

        Args:
            copy: function that copies files.
            is_last: no later call will follow, so `copy` is called even if the storage did not just answer.
        """
        if self.storage is None:
            return
        if not is_last and self.asks_again is not None and time.monotonic() < self.asks_again:
            return
        try:
            copy(self.storage)
            self.asks_again = None
        except StorageError as error:
            if self.asks_again is None:
                self.warnings.append(f"{error}; the trial continues, and its files are uploaded later")
            self.asks_again = time.monotonic() + PATIENCE_SECONDS


def steps_in(storage: Storage, key: str) -> set[str]:
    """Returns the names of the checkpoints in the storage, finished or not."""
    return {name for name in storage.names(key) if name.startswith("step-")}


def kept_by(workdir: Path) -> list[str]:
    """Returns the store folders that a trial made or used, relative to the home."""
    path = workdir / KEPT
    return json.loads(path.read_text()) if path.is_file() else []
