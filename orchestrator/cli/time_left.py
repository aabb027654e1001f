"""Estimates the time that a sweep still takes, from the durations of its trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.planning.costs import duration
from orchestrator.storage.ledger import TrialState
from trainables.scoring.metric_names import REUSED


@dataclass
class TimeLeft:
    """Estimator of the time that a sweep still takes, in seconds."""

    num_searched: int  # planned trials without the baselines
    num_baselines: int
    at_once: int
    planned_seconds: float | None = None  # planned duration of the whole sweep, if the plan timed a step
    placed: dict[str, float] = field(default_factory=dict[str, float])  # trial key → start of its attempt

    def text(self, trials: Collection[TrialState], now: float, began: float) -> str:
        """Returns text such as `about 3 min left`; empty if `seconds` returns None."""
        seconds = self.seconds(trials, now, began)
        return "" if seconds is None else f"about {duration(seconds)} left"

    def seconds(self, trials: Collection[TrialState], now: float, began: float) -> float | None:
        """Returns the seconds until the last trial ends; None if no trial is left or no duration is known.

        Baselines and other trials have separate mean durations, because a frozen encoder takes far less.
        """
        left: list[float] = []
        for is_baseline, num_planned in ((False, self.num_searched), (True, self.num_baselines)):
            kind = [trial for trial in trials if trial.is_baseline == is_baseline]
            running = [trial for trial in kind if trial.status in ("placed", "running")]
            num_unplaced = max(0, num_planned - len(kind))
            if not running and not num_unplaced:
                continue
            if (mean := self._mean_seconds(kind, now)) is None:
                return None if self.planned_seconds is None else max(0.0, began + self.planned_seconds - now)
            left += [max(0.0, mean - self._elapsed(trial, now)) for trial in running] + [mean] * num_unplaced
        return max(sum(left) / self.at_once, *left) if left else None

    def _mean_seconds(self, trials: Collection[TrialState], now: float) -> float | None:
        """Returns the mean duration of finished trials, or else the projected duration of running trials."""
        ended = [trial for trial in trials if trial.status == "finished"]
        whole = [trial.seconds for trial in ended if not any(key in trial.metrics for key in REUSED)]
        projected = [
            self._elapsed(trial, now) * trial.config["num_epochs"] / trial.history[-1][1]
            for trial in trials
            if trial.status == "running" and trial.history and trial.trial_key in self.placed
        ]
        known = whole or [trial.seconds for trial in ended] or projected
        return fmean(known) if known else None

    def _elapsed(self, trial: TrialState, now: float) -> float:
        return now - self.placed.get(trial.trial_key, now)
