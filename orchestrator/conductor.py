"""Between searcher, ledger and whoever watches: every event of a sweep is on disk before it is shown.

Knows no Ray: `sweep` calls it from Tune's callbacks, a test calls it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.ledger import Ledger, SweepState, TrialState
from orchestrator.runner import Cause, TrialOrder, TrialRecord, hash_results
from orchestrator.searcher import Draw, Searcher
from trainables.config import TrialConfig, to_flat

logger = logging.getLogger(__name__)


class SweepObserver:
    """Sees a sweep happen. The default sees nothing; the live table draws it."""

    def on_started(self, folder: Path, state: SweepState) -> None:
        """The ledger has its first entry."""

    def on_trial_placed(self, trial: TrialState) -> None:
        """A trial was handed to a process."""

    def on_trial_reported(self, trial: TrialState) -> None:
        """A trial's `history` has grown."""

    def on_trial_finished(self, trial: TrialState) -> None:
        """A trial ended as it should, or was stopped early."""

    def on_trial_failed(self, trial: TrialState) -> None:
        """A trial failed, or its weights are not on this machine."""

    def on_message(self, text: str) -> None:
        """One line for the user."""


@dataclass
class Conductor:
    """One running sweep. Not thread-safe: Tune calls from one thread."""

    ledger: Ledger
    state: SweepState
    searcher: Searcher
    observer: SweepObserver
    identify: Callable[[TrialConfig], tuple[str, str]]  # → trial_key, arm_key
    order: TrialOrder  # what all trials have in common
    folder: Path
    draws: dict[str, list[Draw]] = field(default_factory=dict[str, "list[Draw]"])  # to be told, by trial

    def record(self, entry_type: str, /, **payload: Any) -> None:
        """Writes one entry and takes it in."""
        self.state.apply(self.ledger.append(entry_type, **payload))

    def next_trial(self) -> TrialOrder | None:
        """Returns the next trial to run; one that the ledger knows already is answered from it."""
        while (draw := self.searcher.ask()) is not None:
            config = self._executed(draw.config)
            key, arm_key = self.identify(config)
            if (known := self.state.trials.get(key)) is not None:
                self._answer(draw, known)
                continue
            self.draws[key] = [draw]
            flat = to_flat(config)
            self.record(
                "trial_placed",
                trial_key=key,
                arm_key=arm_key,
                name=draw.name,
                config=flat,
                attempt=1,
                is_baseline=draw.is_baseline,
            )
            self._show(self.observer.on_trial_placed, self.state.trials[key])
            workdir = self.folder / "trials" / key
            return replace(self.order, trial_key=key, attempt=1, config=flat, workdir=str(workdir))
        return None

    def reported(self, key: str, epoch: int, metrics: dict[str, float]) -> None:
        """Takes in what a trial said on its way; what an earlier attempt said of an epoch stands."""
        trial = self.state.trials[key]
        if any(epoch == known for _, known, _ in trial.history):
            return
        self.record("trial_reported", trial_key=key, attempt=trial.attempts, epoch=epoch, metrics=metrics)
        self._show(self.observer.on_trial_reported, trial)

    def ended(self, key: str, record: TrialRecord, *, is_early: bool = False) -> None:
        """Takes in how a trial ended; `is_early`: a scheduler stopped it."""
        if record.cause is not None:
            self.failed(key, record.cause, record.message or "")
            return
        trial = self.state.trials[key]
        self.record(
            "trial_finished",
            trial_key=key,
            attempt=trial.attempts,
            metrics=record.metrics,
            seconds=record.seconds,
            workdir=f"trials/{key}",
            results=record.results,
            stopped_early=is_early,
        )
        self._tell(key, record.metrics.get(self.order.objective))
        self._show(self.observer.on_trial_finished, trial)

    def stopped_early(self, key: str, *, seconds: float) -> None:
        """Takes in that a scheduler stopped a trial: it ranks by what it said last."""
        results = hash_results(self.folder / "trials" / key)
        self.ended(key, TrialRecord(seconds, self.state.trials[key].metrics, results), is_early=True)

    def failed(self, key: str, cause: Cause, message: str) -> None:
        """Takes in that a trial has no result."""
        trial = self.state.trials[key]
        self.record("trial_failed", trial_key=key, attempt=trial.attempts, cause=cause, message=message)
        self._tell(key, None)
        self._show(self.observer.on_trial_failed, trial)

    def exit_code(self) -> int:
        """Returns 0 if all went well, 3 if a trial failed or none finished."""
        status = [trial.status for trial in self.state.trials.values()]
        return 3 if "failed" in status or "finished" not in status else 0

    def _show(self, tell: Callable[[TrialState], None], trial: TrialState) -> None:
        """Tells whoever watches; a closed terminal must not end a sweep."""
        try:
            tell(trial)
        except Exception:
            logger.warning("the observer failed", exc_info=True)

    def _executed(self, config: TrialConfig) -> TrialConfig:
        changes = {"num_workers": self.order.num_workers, "device": self.order.device}
        return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})

    def _answer(self, draw: Draw, trial: TrialState) -> None:
        if trial.status in ("placed", "running"):
            self.draws[trial.trial_key].append(draw)
        else:
            is_scored = trial.status == "finished"
            self.searcher.tell(draw, trial.metrics.get(self.order.objective) if is_scored else None)

    def _tell(self, key: str, score: float | None) -> None:
        for draw in self.draws.pop(key, []):
            self.searcher.tell(draw, score)
