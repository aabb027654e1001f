"""The live table of a running sweep; on a file or a pipe, one line per trial instead."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.conductor import SweepObserver
from orchestrator.ledger import SweepState, TrialState

MAX_ROWS = 16
SHOWN_STATUS = {
    "placed": ("starting", "dim"),
    "running": ("running", "cyan"),
    "finished": ("done", "green"),
    "failed": ("failed", "red"),
    "unavailable": ("unavailable", "yellow"),
}


class LiveTable(SweepObserver):
    """Draws a sweep while it runs. Use it as a context; make it before the sweep starts.

    It writes to a copy of the terminal's descriptor, since `local_ray` sends the original to a log.

    Args:
        num_trials: how many there will be, baselines included.
        objective: the key that ranks trials.
        to_stderr: leaves standard output to a program that reads it.
    """

    def __init__(self, *, num_trials: int, objective: str, to_stderr: bool = False):
        self.num_trials = num_trials
        self.objective = objective
        self.file = os.fdopen(os.dup(2 if to_stderr else 1), "w", buffering=1)
        self.console = Console(file=self.file)
        self.state: SweepState | None = None
        self.placed: dict[str, float] = {}  # when, by trial
        self.live = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()
        self.file.close()

    def on_started(self, folder: object, state: SweepState) -> None:
        """From now on there is something to draw."""
        self.state = state

    def on_trial_placed(self, trial: TrialState) -> None:
        """Starts the trial's clock."""
        self.placed[trial.trial_key] = time.monotonic()

    def on_trial_finished(self, trial: TrialState) -> None:
        """Prints a line where there is no terminal."""
        self._print_end(trial)

    def on_trial_failed(self, trial: TrialState) -> None:
        """Says why, above the table: a failure must not scroll away unseen."""
        if self.console.is_terminal:
            self.console.print(Text(f"{trial.name}: {trial.message}", style="red"))
        self._print_end(trial)

    def on_message(self, text: str) -> None:
        """Prints a line above the table."""
        self.console.print(text, highlight=False)

    def table(self) -> Table | Text:
        """Returns what stands on the terminal now."""
        if self.state is None:
            return Text("starting …", style="dim")
        table = Table(title=self._title(self.state), title_justify="left", title_style="bold", box=None)
        table.add_column("trial", overflow="fold")
        table.add_column("state")
        for name in ("epoch", "train/loss", self.objective, "seconds"):
            table.add_column(name, justify="right")
        for trial in shown(list(self.state.trials.values())):
            words, style = SHOWN_STATUS[trial.status]
            table.add_row(
                trial.name,
                Text(words, style=style),
                self._epochs(trial),
                _number(trial.metrics.get("train/loss")),
                _number(trial.metrics.get(self.objective)),
                f"{self._seconds(trial):.0f}",
            )
        return table

    def _title(self, state: SweepState) -> str:
        status = [trial.status for trial in state.trials.values()]
        parts = [f"{status.count('finished')} of {self.num_trials} trials done"]
        parts += [f"{status.count(word)} {word}" for word in ("failed", "unavailable") if word in status]
        return f"sweep {state.name}: {', '.join(parts)}"

    def _epochs(self, trial: TrialState) -> str:
        if trial.config.get("adapt.method") == "none":
            return ""
        return f"{trial.history[-1][1] if trial.history else 0}/{trial.config.get('num_epochs', '?')}"

    def _seconds(self, trial: TrialState) -> float:
        if trial.status in ("placed", "running"):
            return time.monotonic() - self.placed.get(trial.trial_key, time.monotonic())
        return trial.seconds

    def _print_end(self, trial: TrialState) -> None:
        if self.console.is_terminal:
            return
        done = (
            sum(trial.status not in ("placed", "running") for trial in self.state.trials.values())
            if self.state
            else 0
        )
        what = trial.message or f"{self.objective} {_number(trial.metrics.get(self.objective))}"
        self.console.print(
            f"{done}/{self.num_trials} {trial.name}: {SHOWN_STATUS[trial.status][0]}, {what}, {trial.seconds:.0f} s",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def shown(trials: list[TrialState]) -> list[TrialState]:
    """Returns the trials that fit on a screen, as placed: those under way, then the latest of the rest."""
    under_way = [trial for trial in trials if trial.status in ("placed", "running")]
    over = [trial for trial in trials if trial.status not in ("placed", "running")]
    room = max(0, MAX_ROWS - len(under_way))
    keys = {trial.trial_key for trial in under_way[:MAX_ROWS] + over[len(over) - min(room, len(over)) :]}
    return [trial for trial in trials if trial.trial_key in keys]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
