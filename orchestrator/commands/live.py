"""A sweep on the terminal while it runs: a live table, or a line per trial where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.conductor import SweepObserver
from orchestrator.ledger import SweepState, TrialState

MAX_ROWS = 12
MARKS = {
    "placed": "[dim]starts[/]",
    "running": "[cyan]runs[/]",
    "finished": "[green]done[/]",
    "failed": "[red]failed[/]",
    "unavailable": "[yellow]absent[/]",
}


class LiveTable(SweepObserver):
    """Draws on the terminal that was there at the start: while Ray runs, standard output goes to a log."""

    def __init__(self, objective: str, *, num_trials: int, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self.console = Console(file=_own_copy(stream.fileno()), force_terminal=stream.isatty())
        self.objective, self.num_trials = objective, num_trials
        self.trials: dict[str, TrialState] = {}
        self.began = time.monotonic()
        self.live = Live(
            console=self.console, get_renderable=self.render, redirect_stdout=False, redirect_stderr=False
        )
        self.is_watched = self.console.is_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live.is_started:
            self.live.stop()
        self.console.file.close()

    def on_started(self, folder: Path, state: SweepState) -> None:
        """Says where the sweep is written, and starts to draw."""
        self.console.print(f"sweep '{state.name}' in {folder}", soft_wrap=True, highlight=False)
        if self.is_watched:
            self.live.start()

    def on_trial_placed(self, trial: TrialState) -> None:
        """A new row."""
        self.trials[trial.trial_key] = trial

    def on_trial_finished(self, trial: TrialState) -> None:
        """Its score, and whether it was stopped early."""
        if not self.is_watched:
            self.console.print(
                f"{self.progress()}  {trial.name}  {self.score(trial)}  {trial.seconds:.0f} s",
                highlight=False,
            )

    def on_trial_failed(self, trial: TrialState) -> None:
        """Why it failed; the sweep goes on."""
        self.console.print(
            Text(f"{trial.name}: {trial.status}: {trial.message}", style="red"), soft_wrap=True
        )

    def on_message(self, text: str) -> None:
        """A line above the table."""
        self.console.print(text, soft_wrap=True, highlight=False)

    def render(self) -> Table:
        """Returns the rows that matter now: what runs, and what ended last."""
        table = Table(box=None, padding=(0, 2, 0, 0), title=self.progress(), title_justify="left")
        for heading in ("", "trial", "epoch", self.objective):
            table.add_column(heading, no_wrap=True)
        for trial in list(self.trials.values())[-MAX_ROWS:]:
            epoch = f"{trial.history[-1][1]}/{trial.config['num_epochs']}" if trial.history else ""
            table.add_row(MARKS[trial.status], escape(trial.name), epoch, self.score(trial))
        return table

    def progress(self) -> str:
        """Reads as `3 of 6 trials, 0:41`."""
        ended = sum(trial.status in ("finished", "failed", "unavailable") for trial in self.trials.values())
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        return f"{ended} of {self.num_trials} trials, {minutes}:{seconds:02d}"

    def score(self, trial: TrialState) -> str:
        """Returns the objective so far; † where a scheduler ended the trial."""
        value = trial.metrics.get(self.objective)
        return "" if value is None else f"{value:.4f}{'†' if trial.stopped_early else ''}"


def _own_copy(descriptor: int):
    return os.fdopen(os.dup(descriptor), "w")
