"""Decides after which failures a trial runs again."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.storage.ledger import TrialState
from orchestrator.worker.trial_spec import DEATHS, Cause

RETRYABLE: tuple[Cause, ...] = ("crash", "disk_full", "storage_failed", *DEATHS)
"""Causes that may be faults of the machine. A trial with a wrong configuration would only fail again."""


@dataclass(frozen=True)
class RetryPolicy:
    """Allows `max_retries` retries. Lost nodes and an unreachable storage do not count."""

    max_retries: int
    max_crashes_in_a_row: int

    def allows_retry(self, trial: TrialState, cause: Cause, *, is_storage_away: bool = False) -> bool:
        """Says whether the trial runs again. `trial.failures` does not contain this failure yet."""
        if cause == "node_died":
            return not self._kills_nodes(trial)
        if cause == "storage_failed" and is_storage_away:  # the sweep waits for the storage
            return True
        num_earlier = sum(earlier in RETRYABLE for _, earlier, _ in trial.failures)
        return cause in RETRYABLE and num_earlier < self.max_retries

    def _kills_nodes(self, trial: TrialState) -> bool:
        """Returns whether nodes died repeatedly while they ran this trial, before an epoch was complete."""
        last_attempt = trial.history[-1][0] if trial.history else 0  # the last with a completed epoch
        num_lost = sum(cause == "node_died" for attempt, cause, _ in trial.failures if attempt > last_attempt)
        return num_lost + 1 >= self.max_crashes_in_a_row
