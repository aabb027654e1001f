"""The time that a sweep still takes, from the durations of its trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.planning.costs import duration
from orchestrator.storage.ledger import TrialState
from trainables.scoring.metric_names import REUSED


@dataclass
class TimeLeft:
    """The trials of a sweep that have ended, run, or are still to be placed."""

    num_searched: int  # planned trials beside the baselines
    num_baselines: int
    at_once: int
    planned_seconds: float | None = None  # of all trials, where the plan timed a step
    placed: dict[str, float] = field(default_factory=dict[str, float])  # trial key → when, in seconds

    def place(self, trial: TrialState, now: float) -> None:
        """Notes when an attempt of a trial began."""
        self.placed[trial.trial_key] = now

    def text(self, trials: Collection[TrialState], now: float, began: float) -> str:
        """Returns `about 3 min left`; nothing while no duration is known, or once all trials have ended."""
        seconds = self.seconds(trials, now, began)
        return "" if seconds is None else f"about {duration(seconds)} left"

    def seconds(self, trials: Collection[TrialState], now: float, began: float) -> float | None:
        """Returns the seconds until the last trial ends.

        A baseline may take far less than a searched trial, so each kind has its own mean.
        """
        baselines = [trial for trial in trials if trial.is_baseline]
        searched = [trial for trial in trials if not trial.is_baseline]
        typical = self._typical(searched, now), self._typical(baselines, now)
        work, longest, is_open = 0.0, 0.0, False
        for kind, mean, num_planned in (
            (searched, typical[0], self.num_searched),
            (baselines, typical[1] or typical[0], self.num_baselines),
        ):
            running = [trial for trial in kind if trial.status in ("placed", "running")]
            num_unplaced = max(0, num_planned - len(kind))
            if not running and not num_unplaced:
                continue
            if mean is None:
                return None if self.planned_seconds is None else max(0.0, self.planned_seconds - now + began)
            left = [max(0.0, mean - self._elapsed(trial, now)) for trial in running]
            left += [mean] * num_unplaced
            work, longest, is_open = work + sum(left), max(longest, *left), True
        return max(work / self.at_once, longest) if is_open else None

    def _typical(self, trials: Collection[TrialState], now: float) -> float | None:
        """Returns the mean seconds of a kind: of those that ended, else as the epochs of running ones say."""
        ended = [trial for trial in trials if trial.status == "finished"]
        whole = [trial for trial in ended if not any(key in trial.metrics for key in REUSED)] or ended
        if whole:
            return fmean(trial.seconds for trial in whole)
        projected = [
            self._elapsed(trial, now) * trial.config["num_epochs"] / trial.history[-1][1]
            for trial in trials
            if trial.status == "running" and trial.history and trial.trial_key in self.placed
        ]
        return fmean(projected) if projected else None

    def _elapsed(self, trial: TrialState, now: float) -> float:
        return now - self.placed.get(trial.trial_key, now)
