"""Between searcher, ledger and whoever watches: every event of a sweep is on disk before it is shown.

Knows no Ray: `sweep` calls it from Tune's callbacks, a test calls it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.ledger import Entry, Ledger, SweepState, TrialState
from orchestrator.runner import Cause, TrialOrder, TrialRecord, explain, hash_results
from orchestrator.searcher import Draw, Searcher
from trainables.config import TrialConfig, from_flat, to_flat
from trainables.errors import UserError

logger = logging.getLogger(__name__)
ShownT = TypeVar("ShownT")


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
    max_retries: int = 0  # of a trial whose process crashed
    check: Callable[[TrialConfig], None] = lambda config: None  # UserError: the trial fails and never starts
    stands_on: dict[str, Any] = field(default_factory=dict[str, Any])  # for the ledger's first entry
    draws: dict[str, list[Draw]] = field(default_factory=dict[str, "list[Draw]"])  # to be told, by trial
    again: list[str] = field(default_factory=list[str])  # trials that need another attempt
    ahead: list[Draw] = field(default_factory=list[Draw])  # asked for, not placed yet
    is_exhausted: bool = False  # the searcher has no more

    def record(self, entry_type: str, /, **payload: Any) -> None:
        """Writes one entry and takes it in."""
        self.state.apply(self.ledger.append(entry_type, **payload))

    def take_in(self, entry: Entry) -> None:
        """Takes in what an earlier driver wrote: the searcher is asked and told what it was then."""
        key = entry.payload.get("trial_key", "")
        if entry.type == "trial_placed" and key not in self.state.trials:
            self._draw_again(key)
        self.state.apply(entry)
        if entry.type == "trial_finished":
            self._tell(key, entry.payload["metrics"].get(self.order.objective))
        elif entry.type == "trial_failed" and not entry.payload.get("is_retried"):
            self._tell(key, None)

    def go_on(self, *, retry_failed: bool = False) -> None:
        """Lines up what an earlier driver left undone, after its last entry was taken in."""
        undone = {"placed", "running"} | ({"failed", "unavailable"} if retry_failed else set[str]())
        if self.ahead:
            self.say("the searcher draws otherwise than it did (another version of Optuna?); trials stand")
        self.again = [key for key, trial in self.state.trials.items() if trial.status in undone]

    def has_more(self) -> bool:
        """Says whether there is a trial to run; draws one if it has to."""
        if not self.again and (draw := self._new_draw()) is not None:
            self.ahead.insert(0, draw)
        return bool(self.again or self.ahead)

    def next_trial(self) -> TrialOrder | None:
        """Returns the next trial to run; those that fail their check are over before they start."""
        while (placed := self._place_next()) is not None:
            order, config = placed
            try:
                self.check(config)
            except UserError as error:
                self.failed(order.trial_key, *explain(error, Path(order.workdir)))
                continue
            return order
        return None

    def _place_next(self) -> tuple[TrialOrder, TrialConfig] | None:
        """Places a trial that needs another attempt, else one that is new."""
        if self.again:
            trial = self.state.trials[self.again.pop(0)]
            config = self._executed(from_flat(trial.config))
            order = self._place(config, trial.trial_key, trial.arm_key, trial.name, trial.is_baseline)
            return order, config
        if (draw := self._new_draw()) is None:
            return None
        config = self._executed(draw.config)
        key, arm_key = self.identify(config)
        self.draws[key] = [draw]
        return self._place(config, key, arm_key, draw.name, draw.is_baseline), config

    def _place(self, config: TrialConfig, key: str, arm_key: str, name: str, is_baseline: bool) -> TrialOrder:
        known, flat = self.state.trials.get(key), to_flat(config)
        attempt = known.attempts + 1 if known else 1
        self.record(
            "trial_placed",
            trial_key=key,
            arm_key=arm_key,
            name=name,
            config=flat,
            attempt=attempt,
            is_baseline=is_baseline,
        )
        self._show(self.observer.on_trial_placed, self.state.trials[key])
        workdir = self.folder / "trials" / key
        return replace(self.order, trial_key=key, attempt=attempt, config=flat, workdir=str(workdir))

    def _new_draw(self) -> Draw | None:
        """Returns the next draw of a trial that the ledger does not know; answers the others from it."""
        while (draw := self._ask()) is not None:
            if (known := self.state.trials.get(self._key_of(draw))) is None:
                return draw
            self._answer(draw, known)
        return None

    def _ask(self) -> Draw | None:
        if self.ahead:
            return self.ahead.pop(0)
        draw = None if self.is_exhausted else self.searcher.ask()
        self.is_exhausted = draw is None
        return draw

    def _draw_again(self, key: str) -> None:
        """Asks for the draw that a trial of the ledger came from.

        Where a searcher draws otherwise than it did (another version of Optuna), the trial stands, and what
        is drawn in its place is run later.
        """
        for place, draw in enumerate(self.ahead):
            if self._key_of(draw) == key:
                self.draws[key] = [self.ahead.pop(place)]
                return
        waiting, self.ahead = self.ahead, []
        draw = self._new_draw()
        self.ahead = waiting
        if draw is not None and self._key_of(draw) == key:
            self.draws[key] = [draw]
        elif draw is not None:
            self.ahead.append(draw)

    def _key_of(self, draw: Draw) -> str:
        return self.identify(self._executed(draw.config))[0]

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
        """Takes in that an attempt has no result; after a crash another one follows, up to `max_retries`."""
        trial = self.state.trials[key]
        num_crashes = sum(earlier == "crash" for _, earlier, _ in trial.failures)
        is_retried = cause == "crash" and num_crashes < self.max_retries
        self.record(
            "trial_failed",
            trial_key=key,
            attempt=trial.attempts,
            cause=cause,
            message=message,
            is_retried=is_retried,
        )
        if is_retried:
            self.again.append(key)
            self.say(f"{trial.name}: {message}; it goes on from its last checkpoint")
            return
        self._tell(key, None)
        self._show(self.observer.on_trial_failed, trial)

    def exit_code(self) -> int:
        """Returns 0 if all went well, 3 if a trial failed or none finished."""
        status = [trial.status for trial in self.state.trials.values()]
        return 3 if "failed" in status or "finished" not in status else 0

    def say(self, text: str) -> None:
        """Says one line to whoever watches."""
        self._show(self.observer.on_message, text)

    def _show(self, tell: Callable[[ShownT], None], shown: ShownT) -> None:
        """Tells whoever watches; a closed terminal must not end a sweep."""
        try:
            tell(shown)
        except Exception:
            logger.warning("the observer failed", exc_info=True)

    def _executed(self, config: TrialConfig) -> TrialConfig:
        changes = {"num_workers": self.order.num_workers, "device": self.order.device}
        return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})

    def _answer(self, draw: Draw, trial: TrialState) -> None:
        if trial.status in ("placed", "running"):
            self.draws.setdefault(trial.trial_key, []).append(draw)
        else:
            is_scored = trial.status == "finished"
            self.searcher.tell(draw, trial.metrics.get(self.order.objective) if is_scored else None)

    def _tell(self, key: str, score: float | None) -> None:
        for draw in self.draws.pop(key, []):
            self.searcher.tell(draw, score)
