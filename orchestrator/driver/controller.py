"""Between searcher, ledger and whoever watches: every event of a sweep is on disk before it is shown.

Knows no Ray: `sweep` calls it from Tune's callbacks, a test calls it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.driver.checkpoint_retention import forget, prune
from orchestrator.driver.circuit_breaker import CircuitBreaker
from orchestrator.planning.identity import Identity, weights_of
from orchestrator.results.seed_repeats import next_to_confirm
from orchestrator.search.searcher import Metrics, Searcher
from orchestrator.search.space import Draw, SearchSettings
from orchestrator.storage.events import (
    Event,
    TrialFailed,
    TrialFinished,
    TrialPlaced,
    TrialReported,
    TrialWarned,
)
from orchestrator.storage.ledger import Entry, Ledger, SweepState, TrialState
from orchestrator.storage.mirror import Mirror
from orchestrator.worker.failures import explain, forget_words, last_words, read_warnings
from orchestrator.worker.runner import hash_results
from orchestrator.worker.trial_spec import DEATHS, Cause, TrialRecord, TrialSpec
from trainables.config import TrialConfig, from_flat, to_flat
from trainables.errors import UserError, WeightsUnavailable

logger = logging.getLogger(__name__)
MACHINES_FAULT: tuple[Cause, ...] = ("crash", "disk_full", "storage_failed", *DEATHS)
"""What another attempt may escape; a defect of the configuration would only fail again."""
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

    def on_trials_waiting(self, reasons: dict[str, str]) -> None:
        """Trials that were handed out and have no place yet: why, by trial key. Called on another thread."""

    def on_message(self, text: str) -> None:
        """One line for the user."""


@dataclass
class Controller:
    """One running sweep. Not thread-safe: Tune calls from one thread."""

    ledger: Ledger
    state: SweepState
    searcher: Searcher
    observer: SweepObserver
    identify: Callable[[TrialConfig], Identity]
    order: TrialSpec  # what all trials have in common
    folder: Path
    settings: SearchSettings = field(default_factory=SearchSettings)
    check: Callable[[TrialConfig], None] = lambda config: None  # UserError: the trial fails and never starts
    mirror: Mirror | None = None  # of the sweep's storage, which other nodes leave their results in
    stands_on: dict[str, Any] = field(default_factory=dict[str, Any])  # for the ledger's first entry
    draws: dict[str, list[Draw]] = field(default_factory=dict[str, "list[Draw]"])  # to be told, by trial
    again: list[str] = field(default_factory=list[str])  # trials that need another attempt
    ahead: list[Draw] = field(default_factory=list[Draw])  # asked for, not placed yet
    is_exhausted: bool = False  # the searcher has no more
    absent: dict[str, str] = field(default_factory=dict[str, str])  # weights that this driver missed, and why

    def __post_init__(self) -> None:
        self.circuit_breaker = CircuitBreaker(self.folder, self.settings, self.say)

    def record(self, event: Event) -> None:
        """Writes one event to the ledger and updates the state."""
        self.state.apply(self.ledger.append(event))

    def take_in(self, entry: Entry) -> None:
        """Takes in what an earlier driver wrote: the searcher is asked and told what it was then."""
        event = entry.event
        if isinstance(event, TrialPlaced) and not event.confirms and event.trial_key not in self.state.trials:
            self._draw_again(event.trial_key)
        self.state.apply(entry)
        if isinstance(event, TrialFinished):
            self._tell(event.trial_key, event.metrics)
        elif isinstance(event, TrialFailed) and not event.is_retried:
            self._tell(event.trial_key, None)

    def go_on(self, *, retry_failed: bool = False) -> None:
        """Lines up what an earlier driver left undone, after its last entry was taken in."""
        undone = {"placed", "running"} | ({"failed", "unavailable"} if retry_failed else set[str]())
        if self.ahead:
            self.say("the searcher draws otherwise than it did (another version of Optuna?); trials stand")
        self.again = [key for key, trial in self.state.trials.items() if trial.status in undone]

    def has_more(self) -> bool:
        """Says whether there is a trial to run; draws one if it has to."""
        if not self.again and (draw := self._next_draw()) is not None:
            self.ahead.insert(0, draw)
        return bool(self.again or self.ahead)

    def next_trial(self) -> TrialSpec | None:
        """Returns the next trial to run; those that fail their check are over before they start.

        None = none now, or none any more: see `may_place`.
        """
        while self.may_place() and not self._is_waiting() and (found := self._next_trial()):
            draw, identity = found
            if (refusal := self._refusal(draw, identity.trial_key)) is None:
                return self._place(draw, identity)
            self._place(draw, identity._replace(model=None, captioner=None))  # nothing runs on its weights
            self.failed(identity.trial_key, *explain(refusal, self.folder / "trials" / identity.trial_key))
        return None

    def _refusal(self, draw: Draw, key: str) -> UserError | None:
        """Returns why a trial gets no process. Weights that an earlier attempt had are looked for again."""
        config = self._executed(draw.config)
        try:
            self.check(config)
        except UserError as error:
            return error
        failures = self.state.trials[key].failures if key in self.state.trials else []
        has_run = any(cause != "unavailable" for _, cause, _ in failures)
        reason = self.absent.get(weights_of(config))
        return WeightsUnavailable(reason) if reason and not has_run else None

    def _next_trial(self) -> tuple[Draw, Identity] | None:
        """Returns a trial that needs another attempt, under the keys that it has, else one that is new."""
        if self.again:
            trial = self.state.trials[self.again.pop(0)]
            draw = Draw(trial.name, from_flat(trial.config), trial.is_baseline, confirms=trial.confirms)
            now = self.identify(draw.config)
            return draw, now._replace(trial_key=trial.trial_key, arm_key=trial.arm_key)
        if (draw := self._next_draw()) is None:
            return None
        identity = self.identify(self._executed(draw.config))
        if not draw.confirms:
            self.draws[identity.trial_key] = [draw]
        return draw, identity

    def may_place(self) -> bool:
        """Says whether a trial may still be placed, as far as the machine is concerned."""
        return not self.circuit_breaker.is_over

    def waits_for_space(self) -> bool:
        """Says whether only disk or storage keeps a trial from being placed; asked when none runs."""
        keeps = self.circuit_breaker.is_low_on_disk or self._waits_for_storage()
        return self.may_place() and keeps and self.has_more()

    def _is_waiting(self) -> bool:
        return self._waits_for_storage() or self.circuit_breaker.is_waiting()

    def _waits_for_storage(self) -> bool:
        """Other machines can neither begin nor end a trial without it; this one can."""
        return self.mirror is not None and self.mirror.is_shared and self.mirror.is_behind

    def _next_draw(self) -> Draw | None:
        """Returns the searcher's next draw; once it has no more, an arm to be run on another seed."""
        return self._new_draw() or next_to_confirm(self.state)

    def _place(self, draw: Draw, identity: Identity) -> TrialSpec:
        key, flat = identity.trial_key, to_flat(self._executed(draw.config))
        known = self.state.trials.get(key)
        forget_words(self.folder / "trials" / key, "*")  # of an earlier attempt
        attempt = known.attempts + 1 if known else 1
        self.record(
            TrialPlaced(
                trial_key=key,
                arm_key=identity.arm_key,
                name=draw.name,
                config=flat,
                attempt=attempt,
                is_baseline=draw.is_baseline,
                confirms=draw.confirms,
                data_fingerprint=identity.data,
                model_fingerprint=identity.model,
                captioner_fingerprint=identity.captioner,
            )
        )
        self._show(self.observer.on_trial_placed, self.state.trials[key])
        causes = [cause for _, cause, _ in self.state.trials[key].failures]
        return replace(
            self.order,
            trial_key=key,
            attempt=attempt,
            config=flat,
            objective=self.state.trials[key].own_key(self.order.objective),
            workdir=f"sweeps/{self.folder.name}/trials/{key}"
            if self.order.storage
            else str(self.folder / "trials" / key),
            is_compared=not draw.confirms,
            data_fingerprint=identity.data,
            model_fingerprint=identity.model,
            captioner_fingerprint=identity.captioner,
            times_killed_for_memory=causes.count("killed_for_memory"),
        )

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
        return self.identify(self._executed(draw.config)).trial_key

    def reported(self, key: str, epoch: int, metrics: dict[str, float]) -> None:
        """Takes in what a trial said on its way; what an earlier attempt said of an epoch stands."""
        trial = self.state.trials[key]
        self.circuit_breaker.note_progress()
        if any(epoch == known for _, known, _ in trial.history):
            return
        self.record(TrialReported(trial_key=key, attempt=trial.attempts, epoch=epoch, metrics=metrics))
        self._show(self.observer.on_trial_reported, trial)

    def ended(self, key: str, record: TrialRecord, *, is_early: bool = False) -> None:
        """Takes in how a trial ended; `is_early`: a scheduler stopped it."""
        trial = self.state.trials[key]
        self._warned(trial, record.warnings)
        if record.cause in DEATHS:  # of a worker: its trial's own process lives
            self.circuit_breaker.note_crash()
        if record.cause is not None:
            self.failed(key, record.cause, record.message or "")
            return
        try:
            if self.mirror is not None:
                self.mirror.fetch_results(key, record.results)
        except UserError as error:
            self.failed(key, "storage_failed", f"its results did not arrive: {error}")
            return
        self.circuit_breaker.note_progress()
        self.record(
            TrialFinished(
                trial_key=key,
                attempt=trial.attempts,
                metrics=record.metrics,
                seconds=record.seconds,
                workdir=f"trials/{key}",
                results=record.results,
                stopped_early=is_early,
            )
        )
        self._tell(key, record.metrics)
        forget(self.folder, key)
        self._show(self.observer.on_trial_finished, trial)

    def stopped_early(self, key: str, *, seconds: float) -> None:
        """Takes in that a scheduler stopped a trial: it ranks by what it said last."""
        results = hash_results(self.folder / "trials" / key)
        self.ended(key, TrialRecord(seconds, self.state.trials[key].metrics, results), is_early=True)

    def died(self, key: str, cause: Cause, message: str) -> None:
        """Takes in that the process of an attempt died, with what it had no time to say."""
        if self.mirror is not None:
            self.mirror.fetch_failures(key, self.state.trials[key].attempts)
            if said := last_words(self.folder / "trials" / key):  # on another node
                self.failed(key, *said)
                return
        self.circuit_breaker.note_crash()
        self._warned(self.state.trials[key], read_warnings(self.folder / "trials" / key))
        self.failed(key, cause, message)

    def lost_node(self, key: str, nodes: Collection[str]) -> None:
        """Takes in that an attempt ended with a node it stood on, by no fault of the trial's."""
        for node in nodes:
            self.circuit_breaker.note_lost_node(node)
        self._warned(self.state.trials[key], read_warnings(self.folder / "trials" / key))
        names = ", ".join(sorted(node[:8] for node in nodes))
        self.failed(key, "node_died", f"node {names} is lost, or taken back" if names else "its node is lost")

    def waiting(self, reasons: dict[str, str]) -> None:
        """Takes in which trials have no place yet, and why; on another thread, so nothing is written."""
        self._show(self.observer.on_trials_waiting, reasons)

    def _warned(self, trial: TrialState, warnings: list[str]) -> None:
        for warning in warnings:
            self.record(TrialWarned(trial_key=trial.trial_key, attempt=trial.attempts, message=warning))
            self.say(f"{trial.name}: {warning}")

    def failed(self, key: str, cause: Cause, message: str) -> None:
        """Takes in that an attempt has no result; where the machine is to blame, another one may follow."""
        trial = self.state.trials[key]
        num_earlier = sum(earlier in MACHINES_FAULT for _, earlier, _ in trial.failures)
        may_be_retried = cause in MACHINES_FAULT and num_earlier < self.settings.max_retries
        is_away = cause == "storage_failed" and self.mirror is not None and self.mirror.is_behind
        # No fault of the trial's. The circuit_breaker count dead nodes; a storage that is away is waited for.
        is_retried = may_be_retried or is_away or (cause == "node_died" and not self._takes_nodes_down(trial))
        self.record(
            TrialFailed(
                trial_key=key,
                attempt=trial.attempts,
                cause=cause,
                message=message,
                is_retried=is_retried,
            )
        )
        if is_retried:
            self.again.append(key)
            self.say(
                f"{trial.name}: {message}; another attempt follows, from its last checkpoint if it has one"
            )
            return
        if cause == "unavailable":
            self.absent[weights_of(from_flat(trial.config))] = message
        self._tell(key, None)
        self._show(self.observer.on_trial_failed, trial)
        self._prune()

    def _takes_nodes_down(self, trial: TrialState) -> bool:
        """Says whether nodes keep dying under a trial that gets no further."""
        reached = trial.history[-1][0] if trial.history else 0
        num_lost = sum(cause == "node_died" for attempt, cause, _ in trial.failures if attempt > reached)
        return num_lost + 1 >= self.settings.max_crashes_in_a_row

    @property
    def is_taken_over(self) -> bool:
        """Says whether another driver runs this sweep now, from its storage."""
        return self.mirror is not None and self.mirror.is_lost

    @property
    def is_cut_short(self) -> bool:
        """Says whether a sweep that ended has left trials undone."""
        return (
            self.circuit_breaker.is_over
            or self.is_taken_over
            or any(trial.status in ("placed", "running") for trial in self.state.trials.values())
        )

    def exit_code(self) -> int:
        """Returns 0 if all went well, 3 if a trial failed, was left undone, or none finished."""
        status = [trial.status for trial in self.state.trials.values()]
        return 3 if "failed" in status or "finished" not in status or self.is_cut_short else 0

    def say(self, text: str) -> None:
        """Says one line to whoever watches."""
        self._show(self.observer.on_message, text)

    def _show(self, tell: Callable[[ShownT], None], shown: ShownT) -> None:
        """Tells whoever watches; a closed terminal must not end a sweep."""
        try:
            tell(shown)
        except Exception:
            logger.warning("the observer failed", exc_info=True)

    def _prune(self) -> None:
        budget = self.settings.checkpoint_budget_gb * 2**30
        for key in prune(self.folder, self.state, budget_bytes=budget):
            name = self.state.trials[key].name
            if self.mirror is not None:
                self.mirror.forget(key)
            self.say(f"{name}: its checkpoint went, to keep within search.checkpoint_budget_gb")

    def _executed(self, config: TrialConfig) -> TrialConfig:
        changes = {"num_workers": self.order.num_workers, "device": self.order.device}
        return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})

    def _answer(self, draw: Draw, trial: TrialState) -> None:
        if trial.status in ("placed", "running"):
            self.draws.setdefault(trial.trial_key, []).append(draw)
        else:
            self.searcher.tell(draw, trial.metrics if trial.status == "finished" else None)

    def _tell(self, key: str, metrics: Metrics | None) -> None:
        for draw in self.draws.pop(key, []):
            self.searcher.tell(draw, metrics)
