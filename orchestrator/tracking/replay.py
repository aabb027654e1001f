"""Replays a sweep's ledger into MLflow, in a process of its own: MLflow can neither slow nor fail a sweep.

The driver starts a `Replayer`, which starts `python -m orchestrator.tracking.replay`. That process tails
the ledger and writes what `mlflow_runs` says MLflow should hold. Replaying is idempotent: runs are found by
their tags; the tag `orchestrator.seq` of a run says which ledger entries it holds; and points carry the
time of their ledger entry, so that a batch cut off by a crash repeats into the same primary key (key,
timestamp, step, value) of MLflow's database.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.storage.ledger import LedgerReader
from orchestrator.storage.paths import HOME_VARIABLE, home
from orchestrator.tracking.mlflow_runs import NOTICE, SweepRuns

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow_store import Store

# Imports inside functions: MLflow loads in the process that replays, and nowhere else.

logger = logging.getLogger(__name__)

LOG = "tracking.log"
POLL_SECONDS = 0.5
MAX_BACK_OFF_SECONDS = 30.0
PATIENCE_SECONDS = 20.0  # without any progress, once the driver is gone
REQUEST_SECONDS = 10


class Replayer:
    """Replays a ledger into MLflow while the sweep runs. Nothing here raises into the caller or delays it.

    Args:
        sweep_folder: where the ledger is, or will be.
        uri: of the MLflow store or server.
    """

    def __init__(self, sweep_folder: Path, uri: str) -> None:
        self.folder = sweep_folder.absolute()
        self.uri = uri
        self.process: subprocess.Popen[bytes] | None = None
        self.reason = "not started"  # why MLflow is incomplete, for the user; empty when it is complete
        self.notices: list[str] = []  # what else the user should know, once `finish` has returned
        self._log_start = 0

    def start(self) -> None:
        """Starts the process that replays; it ends by itself soon after this one does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("ab") as log:
                self._log_start = log.tell()
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "orchestrator.tracking.replay", str(self.folder)],
                    stdin=subprocess.PIPE,  # when it ends, the driver is done, or dead
                    stdout=subprocess.DEVNULL,  # MLflow prints a link for each run
                    stderr=log,
                    cwd=home(),  # an old ./mlruns of the user's folder must not matter
                    env=environment(self.uri),
                    start_new_session=True,  # Ctrl-C is for the driver, which then calls `finish`
                )
        except Exception as error:  # an unwritable disk, no memory to fork: the sweep goes on
            self.reason = f"could not start: {error}"
            logger.warning("MLflow replay %s", self.reason)

    def finish(self, timeout_seconds: float | None = None) -> bool:
        """Lets the process write what is left of the ledger, and says whether MLflow holds all of it.

        Args:
            timeout_seconds: then the process is killed; `sync` completes the rest. None = until it gives up.
        """
        if self.process is None:
            return False
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            is_complete = self.process.wait(timeout_seconds) == 0
            self.reason = "" if is_complete else self._last_words()
        except subprocess.TimeoutExpired:
            is_complete, self.reason = False, f"not done after {timeout_seconds:g} s; {self._last_words()}"
        finally:
            self._kill()
        lines = self._log_lines()
        self.notices = [line.partition(NOTICE)[2] for line in lines if NOTICE in line]
        return is_complete

    def _kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session, so its own group
        self.process.wait()
        self.process = None

    def _last_words(self) -> str:
        lines = self._log_lines()
        return f"{lines[-1] if lines else 'no message'} (log: {self.folder / LOG})"

    def _log_lines(self) -> list[str]:
        """Returns the lines that this replay has logged."""
        with suppress(OSError):
            return (self.folder / LOG).read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        return []


def sync(sweep_folder: Path, uri: str) -> Replayer:
    """Completes MLflow from a ledger while there is progress; `reason` of the result is empty on success."""
    replayer = Replayer(sweep_folder, uri)
    if (sweep_folder / "ledger").is_dir():
        replayer.start()
        replayer.finish()
    else:
        replayer.reason = f"no ledger in {sweep_folder}"
    return replayer


def environment(uri: str) -> dict[str, str]:
    """Returns the environment of a process that talks to MLflow, its URI too: that may hold a password."""
    project = str(Path(__file__).resolve().parent.parent)
    settings = {
        HOME_VARIABLE: str(home()),
        "PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")])),
        "MLFLOW_TRACKING_URI": absolute(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # seven retries take minutes; the replay backs off by itself
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
    }
    return os.environ | settings


def absolute(uri: str) -> str:
    """Returns a store's URI with its SQLite path made absolute: the replay runs in another folder."""
    scheme, separator, path = uri.partition(":///")
    return f"{scheme}{separator}{Path(path).absolute()}" if scheme == "sqlite" and path else uri


def replay(folder: Path, uri: str) -> bool:
    """Writes a ledger into MLflow while the driver lives, then the rest; False if it gave up before that."""
    runs, reader, writer = SweepRuns(folder), LedgerReader(folder), PatientWriter(uri)
    is_driver_gone = False
    while not is_driver_gone:
        writer.write(runs)  # before the first entry too: making a new database takes seconds
        is_driver_gone = has_ended(sys.stdin.fileno(), max(POLL_SECONDS, writer.back_off))
        for entry in reader.poll():
            runs.apply(entry)
    if runs.state.finished is None:
        runs.close()
    last_progress, num_left = time.monotonic(), len(runs.changed)
    while not writer.write(runs):
        if len(runs.changed) < num_left:
            last_progress, num_left = time.monotonic(), len(runs.changed)
        elif time.monotonic() - last_progress > PATIENCE_SECONDS:
            return False
        time.sleep(min(writer.back_off, 2.0))
    return True


class PatientWriter:
    """Writes runs into a store that may be down, slow, locked or read-only: all may pass.

    An answer that is lost leaves open whether a run was made. So after trouble it looks again what is there.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.store: Store | None = None
        self.back_off = 0.0  # seconds to wait before the next try
        self.had_trouble = False

    def write(self, runs: SweepRuns) -> bool:
        """Writes what has changed, and says whether MLflow holds it all."""
        try:
            self.store = self.store or connect(self.uri)
            while runs.changed:
                self.store.write(next(iter(runs.changed.values())), runs)
                self.back_off = 0.0
            if self.had_trouble:
                self.store.open(runs)
                self.had_trouble = False
        except Exception as error:
            self._note(error, runs)
            return False
        return True

    def _note(self, error: Exception, runs: SweepRuns) -> None:
        logger.warning("MLflow: %s: %s", type(error).__name__, " ".join(str(error).split())[:300])
        self.back_off = min(max(1.0, 2 * self.back_off), MAX_BACK_OFF_SECONDS)
        self.had_trouble = True
        if self.store:
            self.store.experiment_id = None  # opened again before the next run is written
        if runs.changed:  # one bad run must not hold up the others
            key = next(iter(runs.changed))
            runs.changed[key] = runs.changed.pop(key)


def connect(uri: str) -> Store:
    """Returns a store; imports MLflow, which takes seconds."""
    from orchestrator.tracking.mlflow_store import Store

    return Store(uri)


def has_ended(descriptor: int, seconds: float) -> bool:
    """Waits for the end of a pipe that nobody writes to, and says whether it came."""
    readable, _, _ = select.select([descriptor], [], [], seconds)
    return bool(readable) and not os.read(descriptor, 1)


@contextmanager
def only_replay_of(folder: Path) -> Generator[None]:
    """Holds the sweep's replay lock, after the replay of a driver that died has ended.

    Raises:
        SystemExit: the replay of a driver that lives holds it, and will write what there is to write.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    with (folder / "tracking.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and has_ended(sys.stdin.fileno(), 0):
                    raise SystemExit(f"sweep '{folder.name}' is being written by another process") from None
                time.sleep(POLL_SECONDS)
        yield


def main() -> None:
    """Runs one replay. Argument: SWEEP_FOLDER; the store is in `MLFLOW_TRACKING_URI`."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    folder = Path(sys.argv[1])
    os.nice(5)  # training comes first
    with only_replay_of(folder):
        is_complete = replay(folder, os.environ["MLFLOW_TRACKING_URI"])
    sys.exit(0 if is_complete else 1)


if __name__ == "__main__":
    main()
