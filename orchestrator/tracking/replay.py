"""Replays a sweep's ledger into MLflow, in a separate process, so that MLflow cannot slow or fail a sweep.

The driver starts a `Replayer`, which starts `python -m orchestrator.tracking.replay`. That process follows
the ledger and writes the runs of `mlflow_runs`. A repeated replay makes no duplicates. It finds existing runs
by their tags. The tag `orchestrator.seq` gives the last ledger entry that a run includes. A point has the
time of its ledger entry, so a repeated batch has the same primary keys in MLflow's database.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.storage.ledger import LedgerReader
from orchestrator.storage.paths import HOME_VARIABLE, PROJECT, home
from orchestrator.tracking.mlflow_runs import NOTICE, RunsLost, SweepRuns
from orchestrator.tracking.owned_process import POLL_SECONDS, end_owned, has_ended, start_owned
from trainables.errors import UserError

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow_store import Store

# Imports inside functions: only the replay process loads MLflow.

logger = logging.getLogger(__name__)

LOG = "tracking.log"
MAX_BACK_OFF_SECONDS = 30.0
PATIENCE_SECONDS = 20.0  # longest time without progress after the driver has ended
REQUEST_SECONDS = 10


class Replayer:
    """A replay of a ledger into MLflow while the sweep runs. It raises no errors and never blocks the sweep.

    Args:
        sweep_folder: folder of the sweep. Its ledger may be created later.
        uri: URI of the MLflow store or server.
    """

    def __init__(self, sweep_folder: Path, uri: str) -> None:
        self.folder = sweep_folder.absolute()
        self.uri = uri
        self.process: subprocess.Popen[bytes] | None = None
        self.reason = "not started"  # why MLflow is incomplete; empty: MLflow is complete
        self.notices: list[str] = []  # messages for the user, set by `finish`
        self._log_start = 0

    def start(self) -> None:
        """Starts the replay process, which ends soon after this process does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("ab") as log:
                self._log_start = log.tell()
                self.process = start_owned(
                    "orchestrator.tracking.replay",
                    str(self.folder),
                    env=environment(self.uri),
                    stdout=subprocess.DEVNULL,  # MLflow prints a link for each run
                    stderr=log,
                )
        except Exception as error:  # such as a full disk: the sweep continues
            self.reason = f"could not start: {error}"
            logger.warning("MLflow replay %s", self.reason)

    def finish(self, timeout_seconds: float | None = None) -> bool:
        """Waits until the rest of the ledger is written, and returns whether MLflow is complete.

        Args:
            timeout_seconds: time after which the process is killed. None: wait until the process gives up.
        """
        if self.process is None:
            return False
        status, self.process = end_owned(self.process, timeout_seconds), None
        log, lines = self.folder / LOG, list[str]()
        with suppress(OSError):
            lines = log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        said = (line.partition(NOTICE)[2] for line in lines if NOTICE in line)
        self.notices = list(dict.fromkeys(said))  # each once, even if the store was opened several times
        late = f"not done after {timeout_seconds:g} s; " if status is None else ""
        self.reason = f"{late}{lines[-1] if lines else 'no message'} (log: {log})" if status != 0 else ""
        return status == 0


def sync(sweep_folder: Path, uri: str) -> Replayer:
    """Completes a sweep in MLflow from its ledger. On success, `reason` of the returned object is empty."""
    replayer = Replayer(sweep_folder, uri)
    if (sweep_folder / "ledger").is_dir():
        replayer.start()
        replayer.finish()
    else:
        replayer.reason = f"no ledger in {sweep_folder}"
    return replayer


def environment(uri: str) -> dict[str, str]:
    """Returns the environment of a process that uses MLflow. It is private: the URI may have a password."""
    settings = {
        HOME_VARIABLE: str(home()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        "MLFLOW_TRACKING_URI": absolute(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # seven retries take minutes; `PatientWriter` retries
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
    }
    return os.environ | settings


def absolute(uri: str) -> str:
    """Returns the URI with an absolute SQLite path, because the replay runs in another folder."""
    scheme, separator, path = uri.partition(":///")
    return f"{scheme}{separator}{Path(path).absolute()}" if scheme == "sqlite" and path else uri


def replay(folder: Path, uri: str) -> bool:
    """Writes a ledger into MLflow until the driver ends, then the rest. Returns False if it gave up."""
    ledger, writer = LedgerRuns(folder), PatientWriter(uri)
    while not ledger.is_over:
        writer.write(ledger)  # also before the first entry: a new database takes seconds
        ledger.is_over = has_ended(sys.stdin.fileno(), max(POLL_SECONDS, writer.back_off))
        ledger.read()
    last_progress, num_left = time.monotonic(), len(ledger.runs.changed)
    while not writer.write(ledger):
        if writer.is_refused:
            return False
        if len(ledger.runs.changed) != num_left:
            last_progress, num_left = time.monotonic(), len(ledger.runs.changed)
        elif time.monotonic() - last_progress > PATIENCE_SECONDS:
            return False
        time.sleep(min(writer.back_off, 2.0))
    return True


class LedgerRuns:
    """The runs of a ledger, as far as it was read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_over = False  # the driver has ended, so no entry follows
        self.runs, self.reader = SweepRuns(folder), LedgerReader(folder)

    def read(self) -> None:
        """Applies the new entries. After the end of the driver, closes the runs that it left open."""
        for entry in self.reader.poll():
            self.runs.apply(entry)
        if self.is_over and self.runs.state.finished is None:
            self.runs.close()

    def read_again(self) -> None:
        """Applies all entries again, because points that were written are not kept in memory."""
        self.runs, self.reader = SweepRuns(self.folder), LedgerReader(self.folder)
        self.read()


class PatientWriter:
    """A writer that tries again when the MLflow store is down, slow, locked or read-only.

    If an answer is lost, the run may or may not exist. So the writer looks the runs up again after an error.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.store: Store | None = None
        self.back_off = 0.0  # seconds to wait before the next try
        self.had_trouble = False
        self.is_refused = False  # only the user can help

    def write(self, ledger: LedgerRuns) -> bool:
        """Writes the changed runs, and returns whether all of them are written."""
        runs = ledger.runs
        try:
            self.store = self.store or connect(self.uri)
            self.is_refused = False
            while runs.changed:
                self.store.write(next(iter(runs.changed.values())), runs)
                self.back_off = 0.0
            if self.had_trouble:
                self.store.open(runs)
                self.had_trouble = False
        except RunsLost as lost:
            logger.warning("MLflow: %s", lost)
            ledger.read_again()
            return False
        except Exception as error:
            self._note(error, runs)
            return False
        return True

    def _note(self, error: Exception, runs: SweepRuns) -> None:
        self.is_refused = isinstance(error, UserError)
        kind = "" if self.is_refused else f"{type(error).__name__}: "
        logger.warning("MLflow: %s%s", kind, " ".join(str(error).split())[: 1000 if kind == "" else 300])
        self.back_off = min(max(1.0, 2 * self.back_off), MAX_BACK_OFF_SECONDS)
        self.had_trouble = True
        if self.store:
            self.store.experiment_id = None  # so the runs are looked up again before the next write
        if runs.changed:  # try the other runs first
            key = next(iter(runs.changed))
            runs.changed[key] = runs.changed.pop(key)


def connect(uri: str) -> Store:
    """Returns the MLflow store at a URI."""
    # Importing MLflow takes seconds, and the driver, which imports this module, does not need it.
    from orchestrator.tracking.mlflow_store import Store

    return Store(uri)


@contextmanager
def only_replay_of(folder: Path) -> Generator[None]:
    """Waits until an earlier replay has ended, then holds the lock of the sweep's replay.

    Raises:
        SystemExit: the replay of a running driver holds the lock, and writes the whole ledger.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    with (folder / "tracking.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and has_ended(sys.stdin.fileno(), 0):
                    raise SystemExit(f"another process is writing sweep '{folder.name}' to MLflow") from None
                time.sleep(POLL_SECONDS)
        yield


def main() -> None:
    """Runs one replay. Argument: SWEEP_FOLDER. The variable `MLFLOW_TRACKING_URI` names the store."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    folder = Path(sys.argv[1])
    os.nice(5)  # training comes first
    with only_replay_of(folder):
        is_complete = replay(folder, os.environ["MLFLOW_TRACKING_URI"])
    sys.exit(0 if is_complete else 1)


if __name__ == "__main__":
    main()
