"""Shows a running sweep as a live table, or as plain lines without a terminal, and copies it to MLflow."""

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

from orchestrator.cli.time_left import TimeLeft
from orchestrator.driver.observer import SweepObserver
from orchestrator.planning.plan import Plan
from orchestrator.results.seed_repeats import confirmed_counts
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
    """Draws on the sweep's own terminal; while Ray runs, standard output is redirected to a log."""

    def __init__(self, plan: Plan, *, uri: str, to_stderr: bool = False) -> None:
        stream = os.fdopen(os.dup(2 if to_stderr else 1), "w")
        self.console = Console(file=stream, force_terminal=stream.isatty())
        self.plan, self.uri = plan, uri
        self.replayer: Replayer | None = None
        self.trials: dict[str, TrialState] = {}
        self.waiting: dict[str, str] = {}
        self.began = time.monotonic()
        self.time_left = time_left(plan)
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
        """Prints data, machine and folder of the sweep, and starts the table and the copy to MLflow."""
        self.trials = dict(state.trials)  # a resumed sweep already has trials
        self.replayer = Replayer(folder, self.uri)
        self.replayer.start()
        for line in (
            self.plan.data,
            *self.plan.notes,
            self.plan.concurrency.reason,
            f"sweep '{state.name}' in {folder}",
        ):
            self.on_message(line)
        if self.is_watched:
            self.live.start()

    def on_trial_placed(self, trial: TrialState) -> None:
        """Adds a row to the table."""
        self.trials[trial.trial_key] = trial
        self.time_left.placed[trial.trial_key] = time.monotonic()

    def on_trial_finished(self, trial: TrialState) -> None:
        """Prints the trial's score if there is no terminal."""
        if not self.is_watched:
            self.console.print(
                f"{self.progress()}  {trial.name}  {self.score(trial)}  {trial.seconds:.0f} s",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )

    def on_trial_failed(self, trial: TrialState) -> None:
        """Prints why the trial failed."""
        self.console.print(
            Text(f"{trial.name}: {trial.status}: {trial.message}", style="red"), soft_wrap=True
        )

    def on_trials_waiting(self, reasons: dict[str, str]) -> None:
        """Shows why some trials have not begun."""
        self.waiting = reasons

    def on_message(self, text: str) -> None:
        """Prints a line above the table."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def finish_tracking(self) -> None:
        """Waits until MLflow holds the sweep, or prints the command that completes MLflow later."""
        if self.live.is_started:
            self.live.stop()
        if self.replayer is None:
            return
        self.on_message("completing the sweep in MLflow")
        is_complete = self.replayer.finish()
        for notice in self.replayer.notices:
            self.on_message(notice)
        if not is_complete:
            name, reason = self.replayer.folder.name, self.replayer.reason
            self.on_message(f"MLflow is incomplete: {reason}. Complete it later: {command(f'sync {name}')}")

    def render(self) -> Table:
        """Returns a table of the newest trials."""
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
        """Returns `3 of 6 trials, 0:41, about 2 min left`."""
        trials, now = list(self.trials.values()), time.monotonic()  # another thread draws the table
        ended = sum(trial.status in ("finished", "failed", "unavailable") for trial in trials)
        minutes, seconds = divmod(int(now - self.began), 60)
        planned = self.plan.num_trials + self.plan.num_baselines + self.plan.num_confirming
        left = self.time_left.text(trials, now, self.began)
        return ", ".join([f"{ended} of {planned} trials", f"{minutes}:{seconds:02d}", *filter(None, [left])])

    def score(self, trial: TrialState) -> str:
        """Returns the newest value of the objective, with † if a scheduler stopped the trial."""
        value = trial.value(self.plan.space.objective)
        return "" if value is None else f"{value:.4f}{'†' if trial.stopped_early else ''}"


def time_left(plan: Plan) -> TimeLeft:
    """Returns an object that estimates the remaining time of a planned sweep."""
    arms, baselines = (count * (plan.space.search.seeds - 1) for count in confirmed_counts(plan.space))
    return TimeLeft(
        num_searched=plan.num_trials + arms,
        num_baselines=plan.num_baselines + baselines,
        at_once=plan.concurrency.max_concurrent,
        planned_seconds=plan.time.seconds,
    )
