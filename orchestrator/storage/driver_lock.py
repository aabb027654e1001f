"""Who runs a sweep: the process that holds the lock of its ledger. Knows neither Ray nor torch."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

from trainables.errors import ClusterError
from trainables.shell import command

STOP_SIGNAL = signal.SIGUSR2  # not SIGUSR1: Tune has that
WAITING = "waiting.json"
"""In the folder of a sweep that runs on a cluster: why trials have no place yet."""


def running_driver(sweep_folder: Path) -> int | None:
    """Returns the process that runs a sweep; None if none does, whatever the last one left behind."""
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
    """Says whether there is a process of this number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ask_to_stop(sweep_folder: Path) -> int:
    """Asks the driver of a sweep to end after the running epochs, and returns its process id.

    Raises:
        ClusterError: nobody runs the sweep, or not as a process that can be reached from here.
    """
    name, pid = sweep_folder.name, running_driver(sweep_folder)
    if pid is None:
        raise ClusterError(f"sweep '{name}' is not running; what it has: {command(f'status {name}')}")
    if not _has_open(pid, sweep_folder / "ledger" / "lock"):  # never signal a stranger
        raise ClusterError(
            f"sweep '{name}' is run by process {pid} of another machine, container or user; stop it there"
        )
    if not _listens(pid):  # the signal would kill it
        raise ClusterError(
            f"sweep '{name}' is run by process {pid}, which does not listen to stop: it is just starting, "
            "or not on its main thread; try again, or press Ctrl-C there"
        )
    os.kill(pid, STOP_SIGNAL)
    return pid


def _listens(pid: int) -> bool:
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
    """Returns why trials of a sweep that runs have no place yet, by their keys."""
    try:
        return json.loads((sweep_folder / WAITING).read_text())
    except (OSError, ValueError):
        return {}
