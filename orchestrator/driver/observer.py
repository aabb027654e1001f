"""What a sweep tells those who watch it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.ledger import SweepState, TrialState


class SweepObserver:
    """Watches a sweep. This one ignores everything; the live table draws it."""

    def on_started(self, folder: Path, state: SweepState) -> None:
        """The ledger has its first entry."""

    def on_trial_placed(self, trial: TrialState) -> None:
        """A trial was handed to a process."""

    def on_trial_reported(self, trial: TrialState) -> None:
        """A trial's `history` has grown."""

    def on_trial_finished(self, trial: TrialState) -> None:
        """A trial finished, or was stopped early by the scheduler."""

    def on_trial_failed(self, trial: TrialState) -> None:
        """A trial failed, or its weights are not on this machine."""

    def on_trials_waiting(self, reasons: dict[str, str]) -> None:
        """Placed trials wait for resources: the reason of each, by trial key. Called on another thread."""

    def on_message(self, text: str) -> None:
        """One line for the user."""
