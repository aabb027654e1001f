"""The lock of a ledger: the process that runs the sweep holds it. This module needs neither Ray nor torch."""

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
"""Name of a file in the sweep's folder. On a cluster, it says why trials wait."""


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
    """Returns the descriptor of an open file that holds the lock.

    The kernel releases the lock when the file is closed or the process ends.

    Raises:
        ClusterError: another process runs the sweep.
    """
    path = sweep_folder / "ledger" / "lock"
    while True:
        descriptor = _lock(path, name=sweep_folder.name)
        if _is_file(descriptor, path):
            break
        os.close(descriptor)  # the sweep was deleted between opening and locking
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _lock(path: Path, *, name: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # another process has just deleted the folder
        return _lock(path, name=name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(descriptor, 20).decode() or "unknown"
        os.close(descriptor)
        raise ClusterError(
            f"sweep '{name}' is being run by process {pid}; wait until it ends, or stop it first"
        ) from error
    return descriptor


def _is_file(descriptor: int, path: Path) -> bool:
    """Returns whether a path still leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_alive(pid: int) -> bool:
    """Returns whether a process with this id exists. The process may belong to any user."""
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
        ClusterError: the sweep is not running, or this process cannot send a signal to the driver.
    """
    name, pid = sweep_folder.name, running_driver(sweep_folder)
    if pid is None:
        raise ClusterError(f"sweep '{name}' is not running; see its trials: {command(f'status {name}')}")
    if not _has_open(pid, sweep_folder / "ledger" / "lock"):  # another process may have got this id
        raise ClusterError(
            f"sweep '{name}' is run by process {pid} of another machine, container or user; run the stop "
            "command on that machine, in that container or as that user"
        )
    if not _listens(pid):  # without a handler the signal would kill the driver
        raise ClusterError(
            f"sweep '{name}' is run by process {pid}, which is still starting and cannot be stopped yet; "
            "try again in a few seconds, or press Ctrl-C in its terminal"
        )
    os.kill(pid, STOP_SIGNAL)
    return pid


def _listens(pid: int) -> bool:
    """Returns whether a process has a handler for the stop signal."""
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
    """Returns the waiting trials of a running sweep: trial key → the reason why it waits."""
    try:
        return json.loads((sweep_folder / WAITING).read_text())
    except (OSError, ValueError):
        return {}
