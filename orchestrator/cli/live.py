"""Beside a running sweep: a live table (a line per trial where nobody watches) and the replay into MLflow."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.driver.controller import SweepObserver
from orchestrator.planning.plan import Plan
from orchestrator.storage.ledger import SweepState, TrialState
from orchestrator.tracking.replay import Replayer
from trainables.shell import command

MAX_ROWS = 12
MARKS = {
    "placed": "[dim]starts[/]",
    "running": "[cyan]runs[/]",
    "finished": "[green]done[/]",
    "failed": "[red]failed[/]",
    "unavailable": "[yellow]absent[/]",
}
WAITS = "[yellow]waits[/]"


class LiveTable(SweepObserver):
    """Draws on the terminal that was there at the start: while Ray runs, standard output goes to a log."""

    def __init__(self, plan: Plan, *, uri: str, to_stderr: bool = False) -> None:
        stream = os.fdopen(os.dup(2 if to_stderr else 1), "w")
        self.console = Console(file=stream, force_terminal=stream.isatty())
        self.plan, self.uri = plan, uri
        self.replayer: Replayer | None = None
        self.trials: dict[str, TrialState] = {}
        self.waiting: dict[str, str] = {}
        self.began = time.monotonic()
        self.live = Live(
            console=self.console,
            get_renderable=self.render,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
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
        """Says on what and where the sweep runs, starts to draw, and starts the replay into MLflow."""
        self.trials = dict(state.trials)  # of a sweep that goes on
        self.replayer = Replayer(folder, self.uri)
        self.replayer.start()
        for line in (self.plan.data, self.plan.concurrency.reason, f"sweep '{state.name}' in {folder}"):
            self.on_message(line)
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
                markup=False,
            )

    def on_trial_failed(self, trial: TrialState) -> None:
        """Why it failed; the sweep goes on."""
        self.console.print(
            Text(f"{trial.name}: {trial.status}: {trial.message}", style="red"), soft_wrap=True
        )

    def on_trials_waiting(self, reasons: dict[str, str]) -> None:
        """Why some rows have not begun."""
        self.waiting = reasons

    def on_message(self, text: str) -> None:
        """A line above the table."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def finish_tracking(self) -> None:
        """Waits until MLflow holds the sweep; says so if it does not."""
        if self.live.is_started:
            self.live.stop()
        if self.replayer is None:
            return
        is_complete = self.replayer.finish()
        for notice in self.replayer.notices:
            self.on_message(notice)
        if not is_complete:
            name, reason = self.replayer.folder.name, self.replayer.reason
            self.on_message(f"MLflow is incomplete: {reason}. Later: {command(f'sync {name}')}")

    def render(self) -> Table:
        """Returns the rows that matter now: what runs, and what ended last."""
        table = Table(box=None, padding=(0, 2, 0, 0), title=self.progress(), title_justify="left")
        for heading in ("", "trial", "epoch", self.plan.space.objective):
            table.add_column(heading, no_wrap=True)
        for trial in list(self.trials.values())[-MAX_ROWS:]:
            epoch = f"{trial.history[-1][1]}/{trial.config['num_epochs']}" if trial.history else ""
            if why := self.waiting.get(trial.trial_key) if trial.status == "placed" else None:
                table.add_row(WAITS, escape(trial.name), epoch, f"[dim]{escape(why)}[/]")
            else:
                table.add_row(MARKS[trial.status], escape(trial.name), epoch, self.score(trial))
        return table

    def progress(self) -> str:
        """Reads as `3 of 6 trials, 0:41`."""
        ended = sum(trial.status in ("finished", "failed", "unavailable") for trial in self.trials.values())
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        planned = self.plan.num_trials + self.plan.num_baselines + self.plan.num_confirming
        return f"{ended} of {planned} trials, {minutes}:{seconds:02d}"

    def score(self, trial: TrialState) -> str:
        """Returns the objective so far; † where a scheduler ended the trial."""
        value = trial.metrics.get(self.plan.space.objective)
        return "" if value is None else f"{value:.4f}{'†' if trial.stopped_early else ''}"
