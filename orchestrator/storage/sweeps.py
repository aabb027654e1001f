"""Deletes a sweep from this machine, together with the store entries that no other sweep uses."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from orchestrator.storage.driver_lock import hold_driver_lock, running_driver
from orchestrator.storage.ledger import no_such_sweep
from orchestrator.storage.paths import home, sweep_folder, sweep_names
from orchestrator.storage.trial_files import KEPT, RESULTS, kept_by

_STORE_ENTRY = re.compile(r"store/[a-z]+/[A-Za-z0-9_-]+")  # no path from a file may lead elsewhere


def delete_sweep(name: str) -> int:
    """Deletes a sweep's folder and the store entries that only it uses. Returns the number of bytes freed.

    The sweep's runs in MLflow and its copy in a storage are kept. Each trial records the store entries that
    it uses. While another sweep runs, no store entry is deleted. The same holds if a finished trial of
    another sweep has no record, as in sweeps of earlier versions.

    Raises:
        ConfigError: the name is not a valid sweep name.
        DataError: the sweep does not exist; the message suggests the nearest name.
        ClusterError: the sweep is running.
    """
    folder = sweep_folder(name)
    if not (folder / "ledger").is_dir():
        raise no_such_sweep(folder)
    lock = hold_driver_lock(folder)
    try:
        inside = [path for path in folder.iterdir() if path.name != "ledger"]
        # The ledger is deleted last. After a crash the sweep is still listed and can be deleted again.
        return sum(map(_delete, [*own_store_entries(folder), *inside, folder]))
    finally:
        os.close(lock)


def own_store_entries(sweep: Path) -> list[Path]:
    """Returns the store folders that only this sweep uses."""
    others = [other for name in sweep_names() if (other := sweep_folder(name)) != sweep]
    if any(running_driver(other) is not None or not _is_recorded(other) for other in others):
        return []
    used = {key for other in others for key in _kept(other)}
    return [home() / key for key in sorted(_kept(sweep) - used) if _STORE_ENTRY.fullmatch(key)]


def size_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    files = (os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in files if os.path.lexists(file))


def _kept(sweep: Path) -> set[str]:
    return {key for workdir in (sweep / "trials").glob("*") for key in kept_by(workdir)}


def _is_recorded(sweep: Path) -> bool:
    """Returns whether every trial with results has a record of the store entries it uses."""
    return all((results.parent / KEPT).is_file() for results in (sweep / "trials").glob(f"*/{RESULTS}"))


def _delete(path: Path) -> int:
    size = size_bytes(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return size
