"""Replays two sweeps into one MLflow; while the second runs, MLflow's disk is full. Run on a disk of its own.

    python full_disk.py DISK FOLDER

DISK is small and holds MLflow's database and artifacts, FOLDER the ledgers.
"""

import os
import sys
from pathlib import Path
from typing import Any

from test_tracking import wait_until
from test_tracking_faults import PARTS, tree, write

from orchestrator.home import HOME_VARIABLE
from orchestrator.ledger import Ledger
from orchestrator.mlflow_server import serve
from orchestrator.tracking import LOG, Replayer


def main(disk: Path, folder: Path) -> None:
    os.environ[HOME_VARIABLE] = str(disk)
    undisturbed = replay_all(disk, folder / "sweep-1", full_during=None)
    disturbed = replay_all(disk, folder / "sweep-2", full_during="middle")
    log = (folder / "sweep-2" / LOG).read_text()
    assert "disk is full" in log or "No space left" in log, log
    assert len(undisturbed[1]) > 3
    assert disturbed[1] == undisturbed[1], (disturbed[1], undisturbed[1])
    assert disturbed[0] == undisturbed[0], (disturbed[0], undisturbed[0])


def replay_all(disk: Path, folder: Path, *, full_during: str | None) -> tuple[dict[str, Any], list[str]]:
    """Returns what MLflow then holds of the sweep: its runs, and the files beside them."""
    uri, filler, before = f"sqlite:///{disk / 'mlflow.db'}", disk / "filler", files(disk)
    replayer = Replayer(folder, uri)
    replayer.start()
    with Ledger(folder) as ledger:
        for part in PARTS:
            if part == full_during:
                fill(filler)
            write(part, ledger, folder)
            if part == full_during:
                wait_until(lambda: "MLflow: " in (folder / LOG).read_text(), 60)
                filler.unlink()
    assert replayer.finish(120), replayer.reason
    server = serve(uri, port=21700)
    try:
        runs = tree(server, folder.name)
    finally:
        server.stop()
    added = [name.partition("/artifacts/")[2] for name in files(disk) if name not in before]
    return runs, sorted(added)


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
