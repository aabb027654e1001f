"""Decides what a sweep does next, and writes every event to the ledger before anyone sees it.

Knows no Ray: `tune_adapter` calls it from Tune's callbacks, a test calls it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.driver.checkpoint_retention import forget, prune
from orchestrator.driver.circuit_breaker import CircuitBreaker
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.retry_policy import RetryPolicy
from orchestrator.driver.trial_queue import QueuedTrial, TrialQueue
from orchestrator.planning.identity import Identity, weights_of
from orchestrator.search.searcher import Searcher
from orchestrator.search.space import SearchSettings
from orchestrator.storage.events import (
    Event,
    SweepStarted,
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
ShownT = TypeVar("ShownT")


@dataclass(frozen=True)
class RunSettings:
    """What a controller is told at its start; nothing of it changes while the sweep runs.

    Attributes:
        folder: of the sweep.
        identify: returns the keys of a trial, and the fingerprints of its inputs.
        search: retries, limits and budgets.
        check: raises UserError for a trial that must not start; the trial fails with it.
        mirror: copies the sweep to its storage, through which other nodes return results. None = no storage.
        resume_command: what the user types to resume the sweep.
    """

    folder: Path
    identify: Callable[[TrialConfig], Identity]
    search: SearchSettings = field(default_factory=SearchSettings)
    check: Callable[[TrialConfig], None] = lambda config: None
    mirror: Mirror | None = None
    resume_command: str = ""


class Controller:
    """Runs one sweep. Not thread-safe, except `say` and `waiting`: Tune calls it from one thread.

    Attributes:
        settings: never change.
        state: what the ledger says. Only the controller changes it.
        circuit_breaker: stops the placing of trials on a machine that fails again and again.
    """

    def __init__(
        self, settings: RunSettings, ledger: Ledger, searcher: Searcher, observer: SweepObserver
    ) -> None:
        self.settings, self.folder = settings, settings.folder
        self.state = SweepState(settings.folder.name)
        self.circuit_breaker = CircuitBreaker(
            settings.folder, settings.search, self.say, settings.resume_command
        )
        self._ledger, self._observer = ledger, observer
        self._queue = TrialQueue(searcher, settings.identify, self.state)
        self._retries = RetryPolicy(settings.search.max_retries, settings.search.max_crashes_in_a_row)
        self._absent: dict[str, str] = {}  # weights that trials of this driver missed → why

    def record(self, event: Event) -> None:
        """Writes one event to the ledger, and applies it to `state`."""
        self.state.apply(self._ledger.append(event))

    def start(self, event: SweepStarted) -> None:
        """Records that this driver starts."""
        self.record(event)
        self._observer.on_started(self.folder, self.state)

    def replay(
        self, entries: Iterable[Entry], *, retry_failed: bool = False, is_exhausted: bool = False
    ) -> None:
        """Repeats the whole ledger: the searcher is asked and told as before. See `TrialQueue.resume`."""
        for entry in entries:
            self._replay_one(entry)
        if not self._queue.resume(retry_failed=retry_failed, is_exhausted=is_exhausted):
            self.say(
                "the searcher draws other trials than before (another version of Optuna?); all trials of "
                "the ledger are kept"
            )

    def _replay_one(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, TrialPlaced) and not event.confirms and event.trial_key not in self.state.trials:
            self._queue.redraw(event.trial_key)
        self.state.apply(entry)
        if isinstance(event, TrialFinished):
            self._queue.tell(event.trial_key, event.metrics)
        elif isinstance(event, TrialFailed) and not event.is_retried:
            self._queue.tell(event.trial_key, None)

    def has_more(self) -> bool:
        """Says whether a trial is left to run."""
        return self._queue.has_more()

    def may_place(self) -> bool:
        """Says whether the circuit breaker still lets trials be placed."""
        return not self.circuit_breaker.is_over

    def waits_for_space(self) -> bool:
        """Says whether trials are left that only wait for disk space or the storage. Ask when none runs."""
        is_waiting = self.circuit_breaker.is_low_on_disk or self._waits_for_storage()
        return self.may_place() and is_waiting and self.has_more()

    def _waits_for_storage(self) -> bool:
        """Trials on other machines can neither start nor end without it."""
        mirror = self.settings.mirror
        return mirror is not None and mirror.is_shared and mirror.is_behind

    def next_trial(self, template: TrialSpec) -> TrialSpec | None:
        """Places the next trial, on the device, workers and folders of `template`, and returns it.

        Trials that fail their check fail without a process. None = no trial now, or no more; see `may_place`.
        """
        while self.may_place() and not (self._waits_for_storage() or self.circuit_breaker.is_waiting()):
            if (queued := self._queue.pop()) is None:
                return None
            config, key = _on(template, queued.draw.config), queued.identity.trial_key
            if (refusal := self._refusal(config, key)) is None:
                return self._place(queued, to_flat(config), template)
            unused = queued.identity._replace(model=None, captioner=None)  # nothing runs with its weights
            self._record_placed(queued._replace(identity=unused), to_flat(config))
            self.failed(key, *explain(refusal, self._workdir(key)))
        return None

    def _refusal(self, config: TrialConfig, key: str) -> UserError | None:
        """Returns why a trial must not start.

        Weights that one trial missed are missing for the others too, unless an earlier attempt had them.
        """
        try:
            self.settings.check(config)
        except UserError as error:
            return error
        failures = self.state.trials[key].failures if key in self.state.trials else []
        has_run = any(cause != "unavailable" for _, cause, _ in failures)
        reason = self._absent.get(weights_of(config))
        return WeightsUnavailable(reason) if reason and not has_run else None

    def _place(self, queued: QueuedTrial, flat: dict[str, Any], template: TrialSpec) -> TrialSpec:
        key, identity = queued.identity.trial_key, queued.identity
        self._record_placed(queued, flat)
        causes = [cause for _, cause, _ in self.state.trials[key].failures]
        is_relative = template.storage is not None
        return replace(
            template,
            trial_key=key,
            attempt=self.state.trials[key].attempts,
            config=flat,
            objective=self.state.trials[key].own_key(template.objective),
            workdir=f"sweeps/{self.folder.name}/trials/{key}" if is_relative else str(self._workdir(key)),
            is_compared=not queued.draw.confirms,
            data_fingerprint=identity.data,
            model_fingerprint=identity.model,
            captioner_fingerprint=identity.captioner,
            times_killed_for_memory=causes.count("killed_for_memory"),
        )

    def _record_placed(self, queued: QueuedTrial, flat: dict[str, Any]) -> None:
        draw, identity = queued
        key = identity.trial_key
        known = self.state.trials.get(key)
        forget_words(self._workdir(key), "*")  # of an earlier attempt
        self.record(
            TrialPlaced(
                trial_key=key,
                arm_key=identity.arm_key,
                name=draw.name,
                config=flat,
                attempt=known.attempts + 1 if known else 1,
                is_baseline=draw.is_baseline,
                confirms=draw.confirms,
                data_fingerprint=identity.data,
                model_fingerprint=identity.model,
                captioner_fingerprint=identity.captioner,
            )
        )
        self._show(self._observer.on_trial_placed, self.state.trials[key])

    def reported(self, key: str, epoch: int, metrics: dict[str, float]) -> None:
        """Records a trial's report. Epochs already reported are ignored."""
        trial = self.state.trials[key]
        self.circuit_breaker.note_progress()
        if any(epoch == known for _, known, _ in trial.history):
            return
        self.record(TrialReported(trial_key=key, attempt=trial.attempts, epoch=epoch, metrics=metrics))
        self._show(self._observer.on_trial_reported, trial)

    def ended(self, key: str, record: TrialRecord, *, is_early: bool = False) -> None:
        """Records how a trial ended; `is_early`: the scheduler stopped it."""
        trial, mirror = self.state.trials[key], self.settings.mirror
        self._warned(trial, record.warnings)
        if record.cause in DEATHS:  # of a worker; the trial's own process is alive
            self.circuit_breaker.note_crash()
        if record.cause is not None:
            self.failed(key, record.cause, record.message or "")
            return
        try:
            if mirror is not None:
                mirror.fetch_results(key, record.results)
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
        self._queue.tell(key, record.metrics)
        forget(self.folder, key)
        self._show(self._observer.on_trial_finished, trial)

    def stopped_early(self, key: str, *, seconds: float) -> None:
        """Records that the scheduler stopped a trial, which ranks by its last report."""
        results = hash_results(self._workdir(key))
        self.ended(key, TrialRecord(seconds, self.state.trials[key].metrics, results), is_early=True)

    def died(self, key: str, cause: Cause, message: str) -> None:
        """Records that the process of an attempt died, with the reason that it left, if it left one."""
        trial, mirror = self.state.trials[key], self.settings.mirror
        if mirror is not None:
            mirror.fetch_failures(key, trial.attempts)
            if words := last_words(self._workdir(key)):  # written on another node
                self.failed(key, *words)
                return
        self.circuit_breaker.note_crash()
        self._warned(trial, read_warnings(self._workdir(key)))
        self.failed(key, cause, message)

    def lost_node(self, key: str, nodes: Collection[str]) -> None:
        """Records that an attempt ended because its nodes were lost."""
        for node in nodes:
            self.circuit_breaker.note_lost_node(node)
        self._warned(self.state.trials[key], read_warnings(self._workdir(key)))
        names = ", ".join(sorted(node[:8] for node in nodes))
        self.failed(key, "node_died", f"node {names} was lost or preempted" if names else "its node was lost")

    def waiting(self, reasons: dict[str, str]) -> None:
        """Shows which placed trials wait, and why. On another thread, so nothing is recorded."""
        self._show(self._observer.on_trials_waiting, reasons)

    def failed(self, key: str, cause: Cause, message: str) -> None:
        """Records that an attempt failed, and queues another one if the retry policy allows it."""
        trial, mirror = self.state.trials[key], self.settings.mirror
        is_storage_away = mirror is not None and mirror.is_behind
        is_retried = self._retries.allows_retry(trial, cause, is_storage_away=is_storage_away)
        self.record(
            TrialFailed(
                trial_key=key, attempt=trial.attempts, cause=cause, message=message, is_retried=is_retried
            )
        )
        if is_retried:
            self._queue.retry(key)
            self.say(f"{trial.name}: {message}; it is tried again, from its last checkpoint if it has one")
            return
        if cause == "unavailable":
            self._absent[weights_of(from_flat(trial.config))] = message
        self._queue.tell(key, None)
        self._show(self._observer.on_trial_failed, trial)
        self._prune()

    @property
    def is_taken_over(self) -> bool:
        """Says whether another driver has taken this sweep over in its storage."""
        return self.settings.mirror is not None and self.settings.mirror.is_lost

    @property
    def is_cut_short(self) -> bool:
        """Says whether a sweep that has ended left trials undone."""
        return (
            self.circuit_breaker.is_over
            or self.is_taken_over
            or any(trial.status in ("placed", "running") for trial in self.state.trials.values())
        )

    def exit_code(self) -> int:
        """Returns 0 if all went well; 3 if a trial failed or was left undone, or none finished."""
        status = [trial.status for trial in self.state.trials.values()]
        return 3 if "failed" in status or "finished" not in status or self.is_cut_short else 0

    def say(self, text: str) -> None:
        """Shows one line to the user."""
        self._show(self._observer.on_message, text)

    def _warned(self, trial: TrialState, warnings: list[str]) -> None:
        for warning in warnings:
            self.record(TrialWarned(trial_key=trial.trial_key, attempt=trial.attempts, message=warning))
            self.say(f"{trial.name}: {warning}")

    def _show(self, tell: Callable[[ShownT], None], shown: ShownT) -> None:
        """Tells the observer; a closed terminal must not end a sweep."""
        try:
            tell(shown)
        except Exception:
            logger.warning("the observer failed", exc_info=True)

    def _prune(self) -> None:
        budget = self.settings.search.checkpoint_budget_gb * 2**30
        for key in prune(self.folder, self.state, budget_bytes=budget):
            if self.settings.mirror is not None:
                self.settings.mirror.forget(key)
            name = self.state.trials[key].name
            self.say(f"{name}: its checkpoints were deleted, to stay within search.checkpoint_budget_gb")

    def _workdir(self, key: str) -> Path:
        return self.folder / "trials" / key


def _on(template: TrialSpec, config: TrialConfig) -> TrialConfig:
    """Returns a configuration with the workers and the device that it runs on."""
    changes = {"num_workers": template.num_workers, "device": template.device}
    return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})
