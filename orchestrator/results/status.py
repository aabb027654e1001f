"""Reads the progress of a sweep from its ledger, without Ray or torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.results.seed_repeats import num_still_to_confirm
from orchestrator.storage.driver_lock import read_waiting, running_driver
from orchestrator.storage.lease import Lease
from orchestrator.storage.ledger import SweepState, TrialState, read_ledger
from orchestrator.storage.store import Storage
from trainables.shell import command

Progress = Literal["done", "running", "waiting", "interrupted", "failed", "unavailable"]


@dataclass(frozen=True)
class TrialStatus:
    """The progress of one trial. `score` is its newest value of the objective."""

    name: str
    trial_key: str
    progress: Progress
    attempts: int
    epoch: int | None
    num_epochs: int
    score: float | None
    reason: str | None  # why the last attempt failed, or why the trial waits

    def line(self) -> str:
        """Returns a line such as `running  rank=8  epoch 2/4  0.7312  attempt 2`."""
        parts = [f"{self.progress:11}", self.name]
        parts += [f"epoch {self.epoch}/{self.num_epochs}"] if self.epoch is not None else []
        parts += [f"{self.score:.4f}"] if self.score is not None else []
        parts += [f"attempt {self.attempts}"] if self.attempts > 1 else []
        return "  ".join(parts) + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class SweepStatus:
    """The progress of a sweep. `driver` is the process that runs the sweep on `host`, or None."""

    sweep: str
    driver: int | None
    num_planned: int | None  # trials without confirming ones; None: the ledger is of an earlier version
    num_pending: int
    is_complete: bool
    trials: tuple[TrialStatus, ...]
    host: str | None = None
    storage: str | None = None  # URI from which the status was read; None: this machine

    def to_dict(self) -> dict[str, Any]:
        """Returns the status as JSON-like values."""
        return asdict(self) | {"counts": self.counts()}

    def counts(self) -> dict[str, int]:
        """Returns the number of trials by progress, without zeros."""
        found = [trial.progress for trial in self.trials]
        kinds: tuple[Progress, ...] = ("done", "running", "waiting", "interrupted", "failed", "unavailable")
        numbers = {kind: found.count(kind) for kind in kinds} | {"pending": self.num_pending}
        return {kind: number for kind, number in numbers.items() if number}

    def lines(self) -> list[str]:
        """Returns the lines to print: one for the sweep, one for each trial, and the next command."""
        by = f"run by process {self.driver}" + (f" on {self.host}" if self.host else "")
        how = "complete" if self.is_complete else "not running" if self.driver is None else by
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts().items()) or "no trials yet"
        place = f" in {self.storage}" if self.storage else ""
        head = f"sweep '{self.sweep}'{place}: {how}; {counts}"
        return [head, *(trial.line() for trial in self.trials), *self.next()]

    def next(self) -> list[str]:
        """Returns the next command, if there is one."""
        there = f" --storage '{self.storage}'" if self.storage else ""
        if self.driver is not None:
            where = f" on {self.host}" if self.host else ""
            return [f"stop the sweep after the running epochs{where}: {command(f'stop {self.sweep}')}"]
        if not self.is_complete:
            return [f"resume the sweep: {command(f'sweep --resume {self.sweep}{there}')}"]
        if any(trial.progress in ("failed", "unavailable") for trial in self.trials):
            return [
                f"run failed trials again: {command(f'sweep --resume {self.sweep}{there} --retry-failed')}"
            ]
        return []


def read_status(sweep_folder: Path, storage: Storage | None = None) -> SweepStatus:
    """Returns the progress of a sweep.

    Args:
        sweep_folder: folder with the sweep's ledger.
        storage: storage from which the folder was copied; its lease names the driver. None: not a copy.

    Raises:
        DataError: the sweep does not exist (the message suggests the nearest name), or its ledger is damaged.
        StorageError: the storage does not answer.
    """
    state, host = read_ledger(sweep_folder), None
    if storage is None:
        driver = running_driver(sweep_folder)
    else:
        holder = Lease(storage, sweep_folder.name).seen()
        driver, host = (holder.pid, holder.host) if holder else (None, None)
    waiting = read_waiting(sweep_folder) if driver is not None else {}
    is_complete = driver is None and state.is_complete
    num_planned = state.started.num_trials
    num_pending = 0
    if not is_complete and num_planned is not None:
        num_drawn = sum(not trial.confirms for trial in state.trials.values())
        num_pending = max(0, num_planned - num_drawn) + num_still_to_confirm(state)
    return SweepStatus(
        sweep=state.name,
        driver=driver,
        num_planned=num_planned,
        num_pending=num_pending,
        is_complete=is_complete,
        trials=tuple(
            _status_of(trial, state, is_run=driver is not None, waits=waiting.get(key))
            for key, trial in state.trials.items()
        ),
        host=host,
        storage=storage.uri if storage else None,
    )


def _status_of(trial: TrialState, state: SweepState, *, is_run: bool, waits: str | None) -> TrialStatus:
    names: dict[str, Progress] = {"finished": "done", "failed": "failed", "unavailable": "unavailable"}
    under_way: Progress = "waiting" if waits else "running" if is_run else "interrupted"
    progress = names.get(trial.status) or under_way
    last_failure = trial.failures[-1][2] if trial.failures and progress != "done" else None
    return TrialStatus(
        name=trial.name,
        trial_key=trial.trial_key,
        progress=progress,
        attempts=trial.attempts,
        epoch=trial.history[-1][1] if trial.history else None,
        num_epochs=trial.config["num_epochs"],
        score=trial.value(state.started.objective),
        reason=waits if progress == "waiting" else last_failure,
    )
