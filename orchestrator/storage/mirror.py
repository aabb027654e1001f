"""A sweep's ledger on its way into the storage, beside the running sweep; and the lease on it there.

The copy on the driver's disk is the truth. A storage that goes away is said once, and made good later: when
it answers again, at the end, or when the sweep is resumed.
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
"""What a driver may lose with its disk."""


def reach(uri: str) -> Storage:
    """Returns the storage at a URI, after a write and a read there.

    Raises:
        ConfigError: no URI of a storage, or a folder that is the home itself.
        StorageError: it cannot be used from here; says what mends it.
    """
    storage, here = open_storage(uri), home()
    if storage.place.kind == "folder" and (place := Path(storage.uri)).resolve() == here.resolve():
        raise ConfigError(f"storage {place}: is the home itself; choose a folder on another disk")
    storage.check()
    return storage


class Mirror:
    """Holds the lease of a sweep and copies its ledger, on a thread, from `start` to `finish`."""

    def __init__(self, storage: Storage, folder: Path, say: Callable[[str], None]) -> None:
        self.storage, self.folder, self.say = storage, folder, say
        self.lease = Lease(storage, folder.name)
        self.is_lost = False  # somebody else holds the lease: what is in the storage is theirs
        self.is_behind = False  # it did not answer the last time
        self.is_shared = False  # by other machines, which find nothing elsewhere
        self._sizes: dict[str, int] = {}  # of the segments there, as far as we wrote them
        self._reader = LedgerReader(folder)
        self._ended: list[str] = []  # trials whose results may not be there yet
        self._forgotten: list[str] = []
        self._one_at_a_time = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def key(self) -> str:
        """Where the sweep lies in the storage."""
        return f"sweeps/{self.folder.name}"

    def start(self, *, resumes: bool) -> None:
        """Takes the lease, and holds the ledger there against the one here.

        Raises:
            ClusterError: another driver has the lease, or went further than the ledger here.
            ConfigError: a new sweep whose name is taken there.
        """
        self.lease.acquire()
        try:
            if segment_names(self.storage, self.folder.name) and not resumes:
                raise ClusterError(
                    f"sweep '{self.folder.name}' exists already in {self.storage.uri}; go on with it: "
                    f"--resume {self.folder.name} --storage '{self.storage.uri}', or choose another --name"
                )
            if resumes and compare(self.storage, self.folder) == "behind":
                raise ClusterError(
                    f"sweep '{self.folder.name}' went on from elsewhere just now; run the command again"
                )
        except BaseException:
            self.lease.release()
            raise
        self._reader.poll()  # what finished before has been seen to
        self._thread.start()

    def finish(self) -> None:
        """Copies the rest, and gives the lease up; says what is still missing."""
        name = self.folder.name
        try:
            self._end()
            if not self.is_lost and (other := self.lease.renew()):  # this machine may have slept
                self._lose(f"process {other.pid} on {other.host}")
            if not self.is_lost and any(self.folder.glob("ledger/segment-*.jsonl")):
                self.copy_ledger()
                complete(self.storage, read_ledger(self.folder), self.folder)
            if not self.is_lost:
                self.lease.release()
        except Exception as error:  # the sweep itself has ended well
            logger.warning("the storage was not completed", exc_info=error)
            self.say(
                f"{error}. The sweep is whole on this machine, its copy is not; complete it later: "
                + command(f"sweep --resume {name} --storage '{self.storage.uri}'")
            )
        finally:
            self._end()

    def _end(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def copy_ledger(self) -> None:
        """Copies what was written since; of the open segment, whole lines."""
        with self._one_at_a_time:  # what was read first must not be written last
            for path in sorted(self.folder.glob("ledger/segment-*.jsonl")):
                if path.stat().st_size == self._sizes.get(path.name):
                    continue
                content = path.read_bytes()
                if whole := content[: content.rfind(b"\n") + 1]:
                    self.storage.put_bytes(f"{ledger_key(self.folder.name)}/{path.name}", whole)
                self._sizes[path.name] = len(content)

    def bring_results(self, trial_key: str, hashes: dict[str, str]) -> None:
        """Fetches the results of a trial that ended on another node.

        Raises:
            StorageError: the storage does not answer.
            DataError: a file is missing or damaged there.
        """
        bring_results(self.storage, self.folder, trial_key, hashes)

    def bring_words(self, trial_key: str, attempt: int) -> None:
        """Fetches what an attempt on another node said of its failure."""
        TrialFiles(self.folder.parents[1], self.folder / "trials" / trial_key, self.storage).bring_words(
            attempt
        )

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._is_over.wait(MIRROR_SECONDS):
            try:
                if time.monotonic() - renewed > RENEW_SECONDS:
                    if other := self.lease.renew():
                        self._lose(f"process {other.pid} on {other.host}")
                        return
                    renewed = time.monotonic()
                self._complete_ended()  # the ledger there must name no results that are not there
                self.copy_ledger()
                self._delete_forgotten()
            except Exception as error:  # whatever it is, the lease must go on being renewed
                logger.warning("the storage was not written", exc_info=error)
                self._note_absence(error)
            else:
                self._note_presence()

    def forget(self, trial_key: str) -> None:
        """Lets the checkpoints of a trial be deleted in the storage, soon."""
        self._forgotten.append(trial_key)

    def _complete_ended(self) -> None:
        """Puts away what trials that have finished left here, and lets go of their checkpoints."""
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

    def _lose(self, who: str) -> None:
        self.is_lost = True
        self.say(
            f"{who} has taken over this sweep in {self.storage.uri}, as nothing was heard from here for "
            "too long: no further trial is started, and nothing is copied there any more"
        )

    def _note_absence(self, error: Exception) -> None:
        if not self.is_behind:
            self.say(f"{error}. The sweep goes on here and is copied later")
        self.is_behind = True

    def _note_presence(self) -> None:
        if self.is_behind:
            self.say(f"storage {self.storage.uri}: answers again")
        self.is_behind = False


def complete(storage: Storage, state: SweepState, folder: Path) -> None:
    """Puts into the storage what lies on this machine and is not there: of every trial, what it needs later.

    Raises:
        StorageError: the storage does not answer.
        DataError: a file here is damaged.
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
    for made in kept_by(workdir):
        if is_whole(base / made) and not storage.is_whole(made):
            storage.put_folder(base / made, made)


def _has(storage: Storage, key: str, trial: TrialState) -> bool:
    try:
        there = storage.read_manifest(f"{key}/{RESULTS}/manifest.json")
    except (FileNotFoundError, DataError):
        return False
    return {f"{RESULTS}/{name}": sha256 for name, sha256 in there.items()} == trial.results


def bring_results(storage: Storage, folder: Path, trial_key: str, hashes: dict[str, str]) -> None:
    """Fetches those results of a trial that are not here, or not as they should be.

    Raises:
        StorageError: the storage does not answer.
        DataError: a file is missing or damaged there.
    """
    workdir = folder / "trials" / trial_key
    key = f"sweeps/{folder.name}/trials/{trial_key}"
    missing = differing(workdir, hashes)
    storage.get_files({name: (f"{key}/{name}", hashes[name]) for name in missing}, workdir)


def compare(storage: Storage, folder: Path) -> str:
    """Says how the ledger here stands to the one in the storage: `equal`, `ahead` or `behind`.

    Raises:
        DataError: two drivers went on from the same point, each for itself.
        StorageError: the storage does not answer, or the sweep is being deleted there.
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
        f"sweep '{folder.name}' was run from here and, on another machine, from {storage.uri}: the two "
        f"ledgers part. Move one away ({folder}, or sweeps/{folder.name} there), and resume the other"
    )


def bring_sweep(storage: Storage, folder: Path) -> None:
    """Brings a sweep's ledger and the results of its finished trials here, as far as they are further there.

    Raises:
        DataError: no such sweep there or here, or a file that is missing or damaged there.
        ClusterError: the storage does not answer, or another driver runs the sweep.
    """
    names = segment_names(storage, folder.name)
    if not names and not folder.joinpath("ledger").is_dir():
        raise no_such_sweep(storage, folder.name, sweep_names())
    if names and compare(storage, folder) == "behind":
        Lease(storage, folder.name).refuse_if_held()
        copy_segments(storage, folder)
    trials = read_ledger(folder).trials
    finished = [key for key, trial in trials.items() if trial.status == "finished"]
    at_once(lambda key: bring_results(storage, folder, key, trials[key].results), finished)
