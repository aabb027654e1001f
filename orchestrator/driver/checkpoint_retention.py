"""Deletes checkpoints that no trial can resume from, and checkpoints that exceed a byte budget."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from orchestrator.storage.attempt_lock import CHECKPOINTS
from orchestrator.storage.ledger import SweepState, TrialState


def forget(folder: Path, trial_key: str) -> None:
    """Deletes the checkpoints of a finished trial. The adapter of the trial stays in the store."""
    shutil.rmtree(folder / "trials" / trial_key / CHECKPOINTS, ignore_errors=True)


def prune(folder: Path, state: SweepState, *, budget_bytes: float) -> list[str]:
    """Deletes checkpoints of failed trials that exceed the budget, and returns the keys of these trials.

    The newest checkpoints are kept first. Unfinished trials always keep their checkpoints.
    """
    kept, failed = 0, list[tuple[Path, int, TrialState]]()
    for trial in state.trials.values():
        place = folder / "trials" / trial.trial_key / CHECKPOINTS
        if trial.status == "finished" or not place.is_dir():
            continue
        if trial.status in ("failed", "unavailable"):
            failed.append((place, size_of(place), trial))
        else:
            kept += size_of(place)
    lost: list[str] = []
    for place, size, trial in sorted(failed, key=lambda one: one[0].stat().st_mtime, reverse=True):
        kept += size
        if kept > budget_bytes:
            kept -= size
            shutil.rmtree(place, ignore_errors=True)
            lost.append(trial.trial_key)
    return lost


def size_of(folder: Path) -> int:
    """Returns the total bytes of all files in a folder. May miss a file that is being replaced."""
    size = 0
    for place, _, names in os.walk(folder):  # skips deleted folders
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size
