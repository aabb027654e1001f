"""The process that runs a sweep: it holds the lock of the ledger. Needs neither Ray nor torch."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

from trainables.errors import ClusterError
from trainables.shell import command

STOP_SIGNAL = signal.SIGUSR2  # Tune uses SIGUSR1
WAITING = "waiting.json"
"""File in the folder of a sweep that runs on a cluster: why its trials wait."""


def running_driver(sweep_folder: Path) -> int | None:
    """Returns the id of the process that runs a sweep; None if no process does."""
    try:
        with (sweep_folder / "ledger" / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
    except OSError:
        pass
    return None


def hold_driver_lock(sweep_folder: Path) -> int:
    """Returns an open file that holds the lock; the kernel drops it with the file or the process.

    Raises:
        ClusterError: another process runs the sweep.
    """
    path = sweep_folder / "ledger" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(descriptor, 20).decode() or "unknown"
        os.close(descriptor)
        raise ClusterError(
            f"sweep '{sweep_folder.name}' is being run by process {pid}; wait for it, or stop it first"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ask_to_stop(sweep_folder: Path) -> int:
    """Asks the driver of a sweep to stop after the running epochs, and returns its process id.

    Raises:
        ClusterError: the sweep is not running, or its process cannot be signalled from here.
    """
    name, pid = sweep_folder.name, running_driver(sweep_folder)
    if pid is None:
        raise ClusterError(f"sweep '{name}' is not running; see its trials: {command(f'status {name}')}")
    if not _has_open(pid, sweep_folder / "ledger" / "lock"):  # another process may have this id now
        raise ClusterError(
            f"sweep '{name}' is run by process {pid} on another machine, in another container or by "
            "another user; stop it there"
        )
    if not _listens(pid):  # without a handler the signal would kill it
        raise ClusterError(
            f"sweep '{name}' is run by process {pid}, which does not listen to stop yet: it is starting; "
            "try again, or press Ctrl-C there"
        )
    os.kill(pid, STOP_SIGNAL)
    return pid


def _listens(pid: int) -> bool:
    """Whether a process has a handler for the stop signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (STOP_SIGNAL - 1) & 1)


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(file.samefile(path) for file in Path(f"/proc/{pid}/fd").iterdir() if file.exists())
    except OSError:
        return False


def read_waiting(sweep_folder: Path) -> dict[str, str]:
    """Returns trial key → why the trial waits, of a running sweep."""
    try:
        return json.loads((sweep_folder / WAITING).read_text())
    except (OSError, ValueError):
        return {}
