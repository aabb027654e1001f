"""The controller of a sweep: decides the next step, and writes every event to the ledger first.

This module does not import Ray. `tune_adapter` calls it from Tune's callbacks, and tests call it directly.
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
    """Settings of a controller, which do not change while the sweep runs.

    Attributes:
        folder: folder of the sweep.
        identify: returns the keys of a trial, and the fingerprints of its inputs.
        search: retries, limits and budgets.
        check: raises UserError if a trial must not start; the trial then fails with this error.
        mirror: copies the sweep to its storage; other nodes return results through it. None = no storage.
        resume_command: command that resumes the sweep.
    """

    folder: Path
    identify: Callable[[TrialConfig], Identity]
    search: SearchSettings = field(default_factory=SearchSettings)
    check: Callable[[TrialConfig], None] = lambda config: None
    mirror: Mirror | None = None
    resume_command: str = ""


class Controller:
    """Runs one sweep. Only `say` and `waiting` are thread-safe; Tune calls the rest from one thread.

    Attributes:
        settings: settings of the sweep; they never change.
        state: the content of the ledger. Only the controller changes the state.
        circuit_breaker: stops placing trials if the machine keeps failing.
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
        self._absent: dict[str, str] = {}  # missing weights → reason, found by this driver

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
        """Replays the whole ledger, so that the searcher knows all earlier draws and results.

        See `TrialQueue.resume` for the arguments.
        """
        for entry in entries:
            self._replay_one(entry)
        if not self._queue.resume(retry_failed=retry_failed, is_exhausted=is_exhausted):
            self.say(
                "the searcher draws different trials now (another version of Optuna?); all trials of the "
                "ledger are kept"
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
        """Says whether the circuit breaker still allows new trials."""
        return not self.circuit_breaker.is_over

    def waits_for_space(self) -> bool:
        """Says whether the remaining trials wait for disk space or the storage. Call it if no trial runs."""
        is_waiting = self.circuit_breaker.is_low_on_disk or self._waits_for_storage()
        return self.may_place() and is_waiting and self.has_more()

    def _waits_for_storage(self) -> bool:
        """Says whether the storage does not answer, so that trials on other machines cannot start or end."""
        mirror = self.settings.mirror
        return mirror is not None and mirror.is_shared and mirror.is_behind

    def next_trial(self, template: TrialSpec) -> TrialSpec | None:
        """Places the next trial and returns it; device, workers and folders come from `template`.

        A trial that fails its check is recorded as failed. None = no trial now, or no more trials.
        """
        while self.may_place() and not (self._waits_for_storage() or self.circuit_breaker.is_waiting()):
            if (queued := self._queue.pop()) is None:
                return None
            config, key = _on(template, queued.draw.config), queued.identity.trial_key
            if (refusal := self._refusal(config, key)) is None:
                return self._place(queued, to_flat(config), template)
            unused = queued.identity._replace(model=None, captioner=None)  # weights are not used
            self._record_placed(queued._replace(identity=unused), to_flat(config))
            self.failed(key, *explain(refusal, self._workdir(key)))
        return None

    def _refusal(self, config: TrialConfig, key: str) -> UserError | None:
        """Returns why a trial must not start, or None if it may start.

        Weights that were missing for one trial are missing for all, unless an earlier attempt used them.
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
            words_fingerprint=identity.words,
            times_killed_for_memory=causes.count("killed_for_memory"),
        )

    def _record_placed(self, queued: QueuedTrial, flat: dict[str, Any]) -> None:
        draw, identity = queued
        key = identity.trial_key
        known = self.state.trials.get(key)
        forget_words(self._workdir(key), "*")  # messages of an earlier attempt
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
                words_fingerprint=identity.words,
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
        """Records how a trial ended. With `is_early`, the scheduler stopped the trial."""
        trial, mirror = self.state.trials[key], self.settings.mirror
        self._warned(trial, record.warnings)
        if record.cause in DEATHS:  # a worker died; the trial's own process is alive
            self.circuit_breaker.note_crash()
        if record.cause is not None:
            self.failed(key, record.cause, record.message or "")
            return
        try:
            if mirror is not None:
                mirror.fetch_results(key, record.results)
        except UserError as error:
            self.failed(key, "storage_failed", f"the results of the trial did not arrive: {error}")
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
        """Records that the scheduler stopped a trial. The trial is ranked by its last report."""
        results = hash_results(self._workdir(key))
        self.ended(key, TrialRecord(seconds, self.state.trials[key].metrics, results), is_early=True)

    def died(self, key: str, cause: Cause, message: str) -> None:
        """Records that the process of an attempt died. A reason left by the process takes precedence."""
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
        """Records that an attempt ended because the nodes it ran on were lost."""
        for node in nodes:
            self.circuit_breaker.note_lost_node(node)
        self._warned(self.state.trials[key], read_warnings(self._workdir(key)))
        names = ", ".join(sorted(node[:8] for node in nodes))
        self.failed(key, "node_died", f"node {names} was lost or preempted" if names else "the node was lost")

    def waiting(self, reasons: dict[str, str]) -> None:
        """Shows which placed trials wait, and why. Another thread calls this, so nothing is recorded."""
        self._show(self._observer.on_trials_waiting, reasons)

    def failed(self, key: str, cause: Cause, message: str) -> None:
        """Records that an attempt failed, and queues another attempt if the retry policy allows it."""
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
            self.say(f"{trial.name}: {message}; it runs again, from its last checkpoint if there is one")
            return
        if cause == "unavailable":
            self._absent[weights_of(from_flat(trial.config))] = message
        self._queue.tell(key, None)
        self._show(self._observer.on_trial_failed, trial)
        self._prune()

    @property
    def is_taken_over(self) -> bool:
        """Says whether another driver has taken over this sweep in the storage."""
        return self.settings.mirror is not None and self.settings.mirror.is_lost

    @property
    def is_cut_short(self) -> bool:
        """Says whether the sweep ended before all trials were done."""
        return (
            self.circuit_breaker.is_over
            or self.is_taken_over
            or any(trial.status in ("placed", "running") for trial in self.state.trials.values())
        )

    def exit_code(self) -> int:
        """Returns 0 if all trials finished; 3 if a trial failed or was not run, or no trial finished."""
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
        """Calls the observer. Its errors, such as a closed terminal, must not end the sweep."""
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
            self.say(f"{name}: checkpoints deleted, to stay within search.checkpoint_budget_gb")

    def _workdir(self, key: str) -> Path:
        return self.folder / "trials" / key


def _on(template: TrialSpec, config: TrialConfig) -> TrialConfig:
    """Returns the configuration with the workers and the device of the template."""
    changes = {"num_workers": template.num_workers, "device": template.device}
    return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})
