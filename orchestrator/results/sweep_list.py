"""Lists the sweeps on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from orchestrator.results.arms import best_arm, mean
from orchestrator.storage.driver_lock import running_driver
from orchestrator.storage.ledger import read_ledger
from orchestrator.storage.paths import sweep_folder, sweep_names
from orchestrator.storage.sweeps import size_bytes
from trainables.errors import DataError


@dataclass(frozen=True)
class SweepRecord:
    """One sweep on this machine. A damaged ledger leaves `started` and `best_score` empty."""

    name: str
    folder: Path
    started: str | None  # ISO 8601, UTC
    last_used: str  # time of the last write to the ledger; ISO 8601, UTC
    state: Literal["running", "complete", "interrupted", "damaged"]
    best_score: float | None  # mean of the best arm's objective on val; None: no arm finished
    objective: str | None  # metric key of `best_score`
    size_bytes: int  # size of the sweep's folder, without store entries, which sweeps share


def list_sweeps() -> list[SweepRecord]:
    """Returns the sweeps on this machine. The most recently used sweep is the last."""
    records = [_read_record(sweep_folder(name)) for name in sweep_names()]
    return sorted(records, key=lambda record: record.last_used)


def _read_record(folder: Path) -> SweepRecord:
    segments = sorted(folder.glob("ledger/segment-*.jsonl")) or [folder / "ledger"]
    last_used = datetime.fromtimestamp(segments[-1].stat().st_mtime, UTC).isoformat(timespec="seconds")
    found = SweepRecord(folder.name, folder, None, last_used, "damaged", None, None, size_bytes(folder))
    try:
        ledger = read_ledger(folder)
    except DataError:
        return found
    is_run = running_driver(folder) is not None
    state = "running" if is_run else "complete" if ledger.is_complete else "interrupted"
    goal, best = ledger.started.objective, best_arm(ledger)
    score = mean(best, goal) if best else None
    return replace(found, started=ledger.began or None, state=state, best_score=score, objective=goal)
