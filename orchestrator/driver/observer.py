"""The interface through which a sweep reports its events, for example to the live table."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.ledger import SweepState, TrialState


class SweepObserver:
    """Receives the events of a sweep. This base class ignores them; `LiveTable` shows them."""

    def on_started(self, folder: Path, state: SweepState) -> None:
        """Handles the start: the ledger has its first entry."""

    def on_trial_placed(self, trial: TrialState) -> None:
        """Handles a trial that was given to a process."""

    def on_trial_reported(self, trial: TrialState) -> None:
        """Handles a new report in the `history` of a trial."""

    def on_trial_finished(self, trial: TrialState) -> None:
        """Handles a trial that finished, or that the scheduler stopped early."""

    def on_trial_failed(self, trial: TrialState) -> None:
        """Handles a trial that failed, or whose weights are not installed."""

    def on_trials_waiting(self, reasons: dict[str, str]) -> None:
        """Handles placed trials that wait for resources: trial key → reason. Called on another thread."""

    def on_message(self, text: str) -> None:
        """Handles one line of text for the user."""
