"""Copies a running sweep to its storage, and holds the sweep's lease in the storage.

The ledger on the driver's disk is authoritative. If the storage does not answer, the sweep continues. The
copy is completed when the storage answers again, when the sweep ends, or when the sweep is resumed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.storage.attempt_lock import CHECKPOINTS
from orchestrator.storage.events import TrialFinished
from orchestrator.storage.lease import RENEW_SECONDS, Lease
from orchestrator.storage.ledger import LedgerReader, SweepState, TrialState, read_ledger
from orchestrator.storage.paths import home, sweep_names
from orchestrator.storage.remote_sweeps import (
    copy_segments,
    ledger_key,
    no_such_sweep,
    read_segments,
    segment_names,
)
from orchestrator.storage.store import Storage, at_once, differing, open_storage
from orchestrator.storage.trial_files import RESULTS, TrialFiles, kept_by
from trainables.artifacts import is_whole
from trainables.errors import ClusterError, ConfigError, DataError
from trainables.shell import command

logger = logging.getLogger(__name__)
MIRROR_SECONDS = 5.0
"""Time between copies. If a driver loses its disk, at most this much of the sweep is lost."""


def reach(uri: str) -> Storage:
    """Returns the storage at a URI, after writing and reading a test file in it.

    Raises:
        ConfigError: the URI is invalid, or names the home folder.
        StorageError: this machine cannot use the storage; the message says what to do.
    """
    storage, here = open_storage(uri), home()
    if storage.place.kind == "folder" and (place := Path(storage.uri)).resolve() == here.resolve():
        raise ConfigError(f"storage {place} is the home folder; choose a folder on another disk")
    storage.check()
    return storage


class Mirror:
    """A thread that holds a sweep's lease and copies its ledger and results, from `start` to `finish`."""

    def __init__(
        self, storage: Storage, folder: Path, say: Callable[[str], None], *, is_shared: bool = False
    ) -> None:
        self.storage, self.folder, self.say = storage, folder, say
        self.lease = Lease(storage, folder.name)
        self.is_lost = False  # another driver holds the lease, so nothing is written to the storage
        self.is_behind = False  # the storage did not answer the last request
        self.is_shared = is_shared  # trials on other machines need the storage
        self._sizes: dict[str, int] = {}  # sizes of the segments when they were copied
        self._reader = LedgerReader(folder)
        self._ended: list[str] = []  # finished trials that are not uploaded yet
        self._forgotten: list[str] = []  # trials whose checkpoints are to be deleted
        self._one_at_a_time = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def key(self) -> str:
        """The key of the sweep's folder in the storage."""
        return f"sweeps/{self.folder.name}"

    def start(self, *, resumes: bool) -> None:
        """Takes the lease, compares the two ledgers, and starts to copy.

        Raises:
            ClusterError: another driver holds the lease, or the ledger in the storage is longer.
            ClusterError: the sweep is new, but the storage already has a sweep with this name.
        """
        self.lease.acquire()
        try:
            if segment_names(self.storage, self.folder.name) and not resumes:
                raise ClusterError(
                    f"sweep '{self.folder.name}' exists already in {self.storage.uri}; resume it: "
                    f"--resume {self.folder.name} --storage '{self.storage.uri}', or choose another --name"
                )
            if resumes and compare(self.storage, self.folder) == "behind":
                raise ClusterError(
                    f"sweep '{self.folder.name}' was continued on another machine just now; run the command "
                    "again"
                )
        except BaseException:
            self.lease.release()
            raise
        self._reader.poll()  # trials that finished earlier are uploaded already
        self._thread.start()

    def finish(self) -> None:
        """Copies the rest of the sweep and releases the lease. Tells the user if the copy is incomplete."""
        name = self.folder.name
        try:
            self._end()
            self._renew()  # the machine may have been suspended
            if not self.is_lost and any(self.folder.glob("ledger/segment-*.jsonl")):
                self.copy_ledger()
                complete(self.storage, read_ledger(self.folder), self.folder)
            if not self.is_lost:
                self.lease.release()
        except Exception as error:  # the sweep itself is complete
            logger.warning("the copy in the storage is incomplete", exc_info=error)
            self.say(
                f"{error}. The sweep is complete on this machine, but its copy is not. Complete the copy: "
                + command(f"sweep --resume {name} --storage '{self.storage.uri}'")
            )
        finally:
            self._end()

    def _end(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def copy_ledger(self) -> None:
        """Copies the complete lines of the segments that have grown."""
        with self._one_at_a_time:  # an older copy must not replace a newer one
            for path in sorted(self.folder.glob("ledger/segment-*.jsonl")):
                if path.stat().st_size == self._sizes.get(path.name):
                    continue
                content = path.read_bytes()
                if whole := content[: content.rfind(b"\n") + 1]:
                    self.storage.put_bytes(f"{ledger_key(self.folder.name)}/{path.name}", whole)
                self._sizes[path.name] = len(content)

    def fetch_results(self, trial_key: str, hashes: dict[str, str]) -> None:
        """Fetches the results of a trial that ended on another node; `DataError` for a damaged file."""
        fetch_results(self.storage, self.folder, trial_key, hashes)

    def fetch_failures(self, trial_key: str, attempt: int) -> None:
        """Fetches the reason why an attempt on another node failed."""
        home, workdir = self.folder.parents[1], self.folder / "trials" / trial_key
        TrialFiles(home, workdir, self.storage).fetch_failures(attempt)

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._is_over.wait(MIRROR_SECONDS):
            try:
                if time.monotonic() - renewed > RENEW_SECONDS:
                    self._renew()
                    if self.is_lost:
                        return
                    renewed = time.monotonic()
                self._complete_ended()  # results first: the copied ledger must not name missing files
                self.copy_ledger()
                self._delete_forgotten()
            except Exception as error:  # whatever happened, the lease must be renewed
                logger.warning("could not write to the storage", exc_info=error)
                if not self.is_behind:
                    self.say(f"{error}. The sweep continues on this machine and is copied later")
                self.is_behind = True
            else:
                if self.is_behind:
                    self.say(f"storage {self.storage.uri}: answers again")
                self.is_behind = False

    def forget(self, trial_key: str) -> None:
        """Marks the checkpoints of a trial to be deleted in the storage."""
        self._forgotten.append(trial_key)

    def _complete_ended(self) -> None:
        """Uploads the files of finished trials, and deletes their checkpoints in the storage."""
        events = [entry.event for entry in self._reader.poll()]
        self._ended += [event.trial_key for event in events if isinstance(event, TrialFinished)]
        state = read_ledger(self.folder) if self._ended else None
        while state and self._ended:
            _complete_trial(self.storage, state.trials[self._ended[0]], self.folder)
            del self._ended[0]

    def _delete_forgotten(self) -> None:
        while self._forgotten:
            self.storage.delete(f"{self.key}/trials/{self._forgotten[0]}/{CHECKPOINTS}")
            del self._forgotten[0]

    def _renew(self) -> None:
        if self.is_lost or (other := self.lease.renew()) is None:
            return
        self.is_lost = True
        self.say(
            f"process {other.pid} on {other.host} has taken over this sweep in {self.storage.uri}, because "
            "this driver did not renew its lease in time. It starts no more trials and copies nothing more"
        )


def complete(storage: Storage, state: SweepState, folder: Path) -> None:
    """Uploads the results, checkpoints and store entries of all trials that the storage lacks.

    Raises:
        DataError: a file on this machine is damaged.
    """
    at_once(lambda key: _complete_trial(storage, state.trials[key], folder), state.trials)


def _complete_trial(storage: Storage, trial: TrialState, folder: Path) -> None:
    base, workdir = folder.parents[1], folder / "trials" / trial.trial_key
    key = workdir.relative_to(base).as_posix()
    if trial.status == "finished":
        if trial.results and not differing(workdir, trial.results) and not _has(storage, key, trial):
            storage.put_folder(workdir / RESULTS, f"{key}/{RESULTS}")
        if storage.names(f"{key}/{CHECKPOINTS}"):
            storage.delete(f"{key}/{CHECKPOINTS}")
    else:
        for place in (workdir / CHECKPOINTS).glob("step-*"):
            if is_whole(place) and not storage.is_whole(f"{key}/{CHECKPOINTS}/{place.name}"):
                storage.put_folder(place, f"{key}/{CHECKPOINTS}/{place.name}")
    for entry in kept_by(workdir):
        if is_whole(base / entry) and not storage.is_whole(entry):
            storage.put_folder(base / entry, entry)


def _has(storage: Storage, key: str, trial: TrialState) -> bool:
    try:
        there = storage.read_manifest(f"{key}/{RESULTS}/manifest.json")
    except (FileNotFoundError, DataError):
        return False
    return {f"{RESULTS}/{name}": sha256 for name, sha256 in there.items()} == trial.results


def fetch_results(storage: Storage, folder: Path, trial_key: str, hashes: dict[str, str]) -> None:
    """Fetches the result files of a trial that are missing or different on this machine.

    Raises:
        DataError: a file is missing or damaged in the storage.
    """
    workdir = folder / "trials" / trial_key
    key = f"sweeps/{folder.name}/trials/{trial_key}"
    missing = differing(workdir, hashes)
    storage.get_files({name: (f"{key}/{name}", hashes[name]) for name in missing}, workdir)


def compare(storage: Storage, folder: Path) -> str:
    """Returns whether the local ledger is `equal` to, `ahead` of or `behind` the ledger in the storage.

    Raises:
        DataError: the ledgers differ, and neither is a continuation of the other.
    """
    here = b"".join(path.read_bytes() for path in sorted(folder.glob("ledger/segment-*.jsonl")))
    here = here[: here.rfind(b"\n") + 1]
    there = b"".join(content for _, content in read_segments(storage, folder.name))
    if here == there:
        return "equal"
    if here.startswith(there):
        return "ahead"
    if there.startswith(here):
        return "behind"
    raise DataError(
        f"sweep '{folder.name}' was continued on this machine and also on another one, so its ledger differs "
        f"from that in {storage.uri}. Move one away ({folder}, or sweeps/{folder.name} in the storage), and "
        "resume the other"
    )


def fetch_sweep(storage: Storage, folder: Path) -> None:
    """Fetches a sweep's ledger, if the storage has a longer one, and the results of the finished trials.

    Raises:
        DataError: the sweep does not exist, or a file in the storage is missing or damaged.
        ClusterError: another driver runs the sweep, or the storage does not answer.
    """
    names = segment_names(storage, folder.name)
    if not names and not folder.joinpath("ledger").is_dir():
        raise no_such_sweep(storage, folder.name, sweep_names())
    if names and compare(storage, folder) == "behind":
        Lease(storage, folder.name).refuse_if_held()
        copy_segments(storage, folder)
    trials = read_ledger(folder).trials
    finished = [key for key, trial in trials.items() if trial.status == "finished"]
    at_once(lambda key: fetch_results(storage, folder, key, trials[key].results), finished)
