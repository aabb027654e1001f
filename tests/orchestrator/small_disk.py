"""Replays three sweeps into one MLflow, whose disk is full during the second and read-only before the third.

    python small_disk.py DISK FOLDER

DISK is small, of this process alone, and holds MLflow's database and artifacts; FOLDER holds the ledgers.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ledger_history import wait_until
from mlflow_tree import PARTS, tree, write

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import HOME_VARIABLE
from orchestrator.tracking.mlflow_server import serve
from orchestrator.tracking.replay import LOG, Replayer, sync


def main(disk: Path, folder: Path) -> None:
    os.environ[HOME_VARIABLE] = str(disk)
    undisturbed = replay_all(disk, folder / "sweep-1", trouble="none")
    assert len(undisturbed[1]) > 3
    for number, trouble in ((2, "full"), (3, "read-only")):
        runs, artifacts = replay_all(disk, folder / f"sweep-{number}", trouble=trouble)
        assert artifacts == undisturbed[1]
        assert runs == undisturbed[0]


def replay_all(disk: Path, folder: Path, *, trouble: str) -> tuple[dict[str, Any], list[str]]:
    """Returns what MLflow then holds of the sweep: its runs, and the files beside them."""
    uri, before = f"sqlite:///{disk / 'mlflow.db'}", files(disk)
    replayer = Replayer(folder, uri)
    if trouble == "read-only":
        remount(disk, "ro")  # before anything is open for writing
    replayer.start()
    assert (replayer.process is None) == (trouble == "read-only")
    with Ledger(folder) as ledger:
        for part in PARTS:
            if (trouble, part) == ("full", "middle"):
                fill(disk / "filler")
            write(part, ledger, folder)
            if (trouble, part) == ("full", "middle"):
                wait_until(lambda: "disk is full" in (folder / LOG).read_text(), 120)
                (disk / "filler").unlink()
    if trouble == "read-only":
        assert "Read-only file system" in replayer.reason
        remount(disk, "rw")
        replayer = sync(folder, uri)
        assert replayer.reason == ""
    else:
        assert replayer.finish(120), replayer.reason
    server = serve(uri, port=21700)
    try:
        runs = tree(server, folder.name)
    finally:
        server.stop()
    added = [name.partition("/artifacts/")[2] for name in files(disk) if name not in before]
    return runs, sorted(added)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def fill(path: Path) -> None:
    """Leaves no byte free."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def files(disk: Path) -> set[str]:
    """Returns the artifacts of all runs, with their sizes."""
    found = (path for path in (disk / "mlflow-artifacts").rglob("*") if path.is_file())
    return {f"{path.relative_to(disk)} {path.stat().st_size}" for path in found}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
