"""Connects Ray Tune to the controller: Tune gets trials from the controller and returns reports."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.ray_watchdog import NoRoom, undisturbed, watched_node
from orchestrator.driver.controller import Controller
from orchestrator.driver.trial_schedulers import open_scheduler, remind
from orchestrator.search.space import SearchSpace
from orchestrator.worker.failures import OUT_OF_MEMORY, last_words
from orchestrator.worker.runner import run_trial
from orchestrator.worker.trial_spec import Cause, TrialRecord, TrialSpec
from trainables.errors import DataError

# Imports inside functions: a sweep on one machine needs no cluster code.

OF_A_LOST_NODE: tuple[Cause | None, ...] = ("process_died", "crash")
"""Causes that surviving workers report after a node was lost. The trial itself produces any other cause."""
NODE_DIED = re.compile("node (it was running on )?(has died|is dead|was preempted)|node was terminated")
"""Matches Ray's message about an actor whose node was lost."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)

logger = logging.getLogger(__name__)


def run_trials(
    controller: Controller,
    space: SearchSpace,
    template: TrialSpec,
    *,
    max_concurrent: int,
    is_stopping: Callable[[], bool],
    cluster: Cluster | None = None,
) -> bool:
    """Runs trials until the controller has no more, or Tune is told to stop.

    Once `is_stopping` returns True, no trial is placed any more, and running trials end after their epoch.

    Returns:
        True if the trials ended by themselves; False if Ray broke down (call again with a new Ray).

    Raises:
        DataError: the ledger cannot be written, so running trials were stopped.
    """
    bridge = Bridge(controller, template, is_stopping)
    has_ended = True
    try:
        with watched_cluster(bridge, cluster) as find_stuck, watched_node(find_stuck):
            open_tuner(bridge, space, max_concurrent=max_concurrent).fit()
    except Exception as error:  # for example, a process of Tune died at its start
        has_ended = False
        bridge.broke_down(error)
    bridge.raise_problem()
    return has_ended


@contextmanager
def watched_cluster(bridge: Bridge, cluster: Cluster | None) -> Generator[Callable[[], str]]:
    """Yields a `PendingTrials` for a cluster. For this machine, yields a function that returns ""."""
    if cluster is None:
        yield lambda: ""
        return
    from orchestrator.cluster.cluster_state import lost_under
    from orchestrator.driver.pending_trials import PendingTrials

    address, job_id = cluster.address, ray.get_runtime_context().get_job_id()
    bridge.find_lost = partial(lost_under, address, job_id)
    pending = PendingTrials(
        bridge.controller, bridge.template.need, bridge.open_keys, address, job_id, bridge.is_stopping
    )
    try:
        yield pending
    finally:
        pending.close()


def open_tuner(bridge: Bridge, space: SearchSpace, *, max_concurrent: int) -> tune.Tuner:
    """Returns a Tuner that is connected to the controller and knows the scores of finished trials."""
    scheduler = open_scheduler(space)
    remind(scheduler, bridge.controller.state, space.objective)
    return tune.Tuner(
        tune.with_resources(run_trial, bridge.template.resources()),
        tune_config=tune.TuneConfig(
            search_alg=BridgeSearcher(bridge),
            scheduler=scheduler,
            num_samples=-1,  # until the searcher says that it is finished
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,  # Tune's default contains every parameter
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=bridge.template.scratch,
            verbose=0,
            callbacks=[BridgeCallback(bridge)],
            stop=BridgeStopper(bridge),
        ),
    )


class Bridge:
    """State that Tune's searcher, callback and stopper share.

    Keeps the controller's exceptions away from Tune, which would end without cleaning up.
    """

    def __init__(
        self,
        controller: Controller,
        template: TrialSpec,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.controller, self.template, self.is_stopping = controller, template, is_stopping
        self.open_trials: dict[str, str] = {}  # Tune's id → trial_key, of trials whose end is not recorded
        self.problem: Exception | None = None  # first exception of the controller
        self.find_lost: Callable[[str, int], set[str]] | None = None  # returns the lost nodes of an attempt

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        """Pickles to an empty string, because Tune pickles its parts but is never restored."""
        return str, ()

    def open_keys(self) -> list[str]:
        """Returns the keys of the placed trials, oldest first."""
        return list(self.open_trials.values())

    def broke_down(self, error: Exception) -> None:
        """Records that the open trials failed, because Tune ended with an exception.

        If the user has ended the sweep, Ray may have received the same signal, and the trials stay open.
        """
        logger.warning("Ray broke down", exc_info=error)
        if self.is_stopping():
            return
        cause = "killed_for_memory" if OUT_OF_MEMORY.search(str(error)) else "node_died"
        while error.__cause__ is not None:
            error = cast(Exception, error.__cause__)
        is_stuck = isinstance(error, NoRoom)
        reason = _first_line(error) if is_stuck else f"Ray broke down: {_first_line(error)}"
        with self.guarded():
            self.controller.say(reason)
            if not is_stuck:
                self.controller.circuit_breaker.note_crash()  # counted once for all trials
            while self.open_trials:
                _, key = self.open_trials.popitem()
                self.controller.failed(key, cause, reason)

    def ended(self, key: str, record: TrialRecord) -> None:
        """Passes the end of an attempt to the controller. If a node was lost, that is the cause."""
        lost = self.lost_nodes(key) if record.cause in OF_A_LOST_NODE else set[str]()
        if lost:
            self.controller.lost_node(key, lost)
        else:
            self.controller.ended(key, record)

    def lost_nodes(self, key: str) -> set[str]:
        """Returns the lost nodes of an attempt."""
        if self.find_lost is None:
            return set()
        return self.find_lost(key, self.controller.state.trials[key].attempts)

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Keeps the first exception for `raise_problem`; afterwards no trial is placed."""
        with undisturbed():
            try:
                yield
            except Exception as error:
                self.problem = self.problem or error

    def raise_problem(self) -> None:
        """Raises the exception that `guarded` kept, if there is one."""
        if isinstance(self.problem, OSError) and self.problem.errno in UNWRITABLE:
            reason = self.problem.strerror or self.problem
            raise DataError(
                f"{self.controller.folder}: cannot be written ({reason}), so the sweep was stopped; its "
                f"ledger is kept. Free some space, then resume: {self.controller.settings.resume_command}"
            ) from self.problem
        if self.problem is not None:
            raise self.problem


class BridgeStopper(tune.Stopper):
    """Stops each trial after its epoch if the user asks, and all trials if the controller failed."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Says whether a trial stops after this epoch. A trial that returned its record ends by itself."""
        return self.bridge.is_stopping() and "record" not in result

    def stop_all(self) -> bool:
        """Says whether all trials stop, because nothing can be recorded any more."""
        return self.bridge.problem is not None


class BridgeSearcher(Searcher):
    """Gives Tune the next trial of the controller when resources are free."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        """Returns the next trial as a config of Tune, None to wait, or FINISHED."""
        if self.bridge.problem or self.bridge.is_stopping():
            return Searcher.FINISHED
        spec: TrialSpec | None = None
        may_come = False
        with self.bridge.guarded():
            if (spec := self.bridge.controller.next_trial(self.bridge.template)) is not None:
                self.bridge.open_trials[trial_id] = spec.trial_key
            else:  # a running trial may still crash and have to run again
                may_come = bool(self.bridge.open_trials) or self.bridge.controller.waits_for_space()
        if spec is None:
            return None if may_come and not self.bridge.problem else Searcher.FINISHED
        return {"spec": spec.to_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Does nothing, because the controller informs the searcher of the space."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing, because a sweep is resumed from its ledger, never by Tune."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class BridgeCallback(tune.Callback):
    """Passes the reports of trials from Tune to the controller."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes the metrics of an epoch, or the record at the end of the trial, to the controller."""
        with self.bridge.guarded():
            key = self.bridge.open_trials[trial.trial_id]
            if "record" in result:
                del self.bridge.open_trials[trial.trial_id]
                self.bridge.ended(key, TrialRecord(**json.loads(result["record"])))
            else:
                self.bridge.controller.reported(key, result["epoch"], json.loads(result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Reports that the scheduler stopped a trial. After `stop` it is not recorded as finished."""
        with self.bridge.guarded():
            key = self.bridge.open_trials.pop(trial.trial_id, None)
            if key is not None and not self.bridge.is_stopping():
                self.bridge.controller.stopped_early(key, seconds=trial.last_result.get("time_total_s", 0.0))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Reports why a process died or ended. After `stop` the trial is not recorded as finished."""
        with self.bridge.guarded():
            key = self.bridge.open_trials.pop(trial.trial_id, None)
            if key is None or self.bridge.is_stopping():
                return
            said = _error_of(trial)
            if words := last_words(self.bridge.controller.folder / "trials" / key):
                self.bridge.controller.failed(key, *words)
            elif (lost := self.bridge.lost_nodes(key)) or NODE_DIED.search(said):
                self.bridge.controller.lost_node(key, lost)
            else:
                self.bridge.controller.died(key, *_cause_of_death(said))


def _error_of(trial: Trial) -> str:
    """Returns Tune's error message for a failed trial, or an empty string."""
    try:
        return Path(trial.error_file or "").read_text()
    except OSError:
        return ""


def _cause_of_death(said: str) -> tuple[Cause, str]:
    if OUT_OF_MEMORY.search(said):
        return (
            "killed_for_memory",
            "the process was killed because the machine ran out of memory; lower search.max_concurrent",
        )
    return "process_died", "the process died: killed from outside, or crashed in native code (see ray.log)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
