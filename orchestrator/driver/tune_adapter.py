"""Connects Ray Tune to the controller: Tune asks it for trials, and tells it what they report."""

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

# Imports inside functions: a sweep on this machine asks no cluster.

OF_A_LOST_NODE: tuple[Cause | None, ...] = ("process_died", "crash")
"""What surviving workers report when a node is lost. Any other cause is the trial's own."""
NODE_DIED = re.compile("node (it was running on )?(has died|is dead|was preempted)|node was terminated")
"""In Ray's message about an actor whose node was lost."""
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

    Once `is_stopping` says so, no trial is placed any more, and running trials end with their epoch.

    Returns:
        Whether the trials ended by themselves. False: Ray broke down; call again with another Ray.

    Raises:
        DataError: the ledger cannot be written; running trials were stopped.
    """
    bridge = Bridge(controller, template, is_stopping)
    has_ended = True
    try:
        with watched_cluster(bridge, cluster) as find_stuck, watched_node(find_stuck):
            open_tuner(bridge, space, max_concurrent=max_concurrent).fit()
    except Exception as error:  # such as a process of Tune's that died while it started
        has_ended = False
        bridge.broke_down(error)
    bridge.raise_problem()
    return has_ended


@contextmanager
def watched_cluster(bridge: Bridge, cluster: Cluster | None) -> Generator[Callable[[], str]]:
    """Yields a `PendingTrials` for a cluster, else a function that finds nothing."""
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
    """Returns Tune, connected to the controller; its scheduler knows the scores of finished trials."""
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
            trial_dirname_creator=lambda trial: trial.trial_id,  # Tune's own name holds every parameter
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
    """What Tune's searcher, callback and stopper share.

    No exception of the controller reaches Tune, which would end without cleaning up.
    """

    def __init__(
        self,
        controller: Controller,
        template: TrialSpec,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.controller, self.template, self.is_stopping = controller, template, is_stopping
        self.open_trials: dict[str, str] = {}  # Tune's id → trial_key, until the trial's end is recorded
        self.problem: Exception | None = None  # the controller's first
        self.find_lost: Callable[[str, int], set[str]] | None = None  # lost nodes of an attempt

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        """Pickles to nothing: Tune stores its parts for a restore that never comes."""
        return str, ()

    def open_keys(self) -> list[str]:
        """Returns the keys of the placed trials, oldest first."""
        return list(self.open_trials.values())

    def broke_down(self, error: Exception) -> None:
        """Fails the open trials, as Tune ended with an exception.

        If the user has ended the sweep, Ray may have received the same signal: the trials stay open.
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
                self.controller.circuit_breaker.note_crash()  # once, however many trials ran
            while self.open_trials:
                _, key = self.open_trials.popitem()
                self.controller.failed(key, cause, reason)

    def ended(self, key: str, record: TrialRecord) -> None:
        """Passes on how an attempt ended; if it lost a node, that is the cause."""
        lost = self.lost_nodes(key) if record.cause in OF_A_LOST_NODE else set[str]()
        if lost:
            self.controller.lost_node(key, lost)
        else:
            self.controller.ended(key, record)

    def lost_nodes(self, key: str) -> set[str]:
        """Returns the lost nodes among those that an attempt ran on."""
        if self.find_lost is None:
            return set()
        return self.find_lost(key, self.controller.state.trials[key].attempts)

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Keeps the first exception for `raise_problem`; after it, no trial is placed any more."""
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
    """Stops each trial after its epoch when the user asks; all at once when the controller failed."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops a trial after its epoch, whose checkpoint is on disk; a trial that is done ends by itself."""
        return self.bridge.is_stopping() and "record" not in result

    def stop_all(self) -> bool:
        """Stops all trials once nothing can be recorded."""
        return self.bridge.problem is not None


class BridgeSearcher(Searcher):
    """Gives Tune the controller's next trial whenever a place is free."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        """Returns Tune's config of the next trial."""
        if self.bridge.problem or self.bridge.is_stopping():
            return Searcher.FINISHED
        spec: TrialSpec | None = None
        may_come = False
        with self.bridge.guarded():
            if (spec := self.bridge.controller.next_trial(self.bridge.template)) is not None:
                self.bridge.open_trials[trial_id] = spec.trial_key
            else:  # a running trial may still crash, and then needs a place again
                may_come = bool(self.bridge.open_trials) or self.bridge.controller.waits_for_space()
        if spec is None:
            return None if may_come and not self.bridge.problem else Searcher.FINISHED
        return {"spec": spec.to_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Does nothing: the controller tells the searcher of the space."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a sweep is resumed from its ledger, never by Tune."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class BridgeCallback(tune.Callback):
    """Passes what trials report from Tune to the controller."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes on an epoch's metrics, or the record at the end."""
        with self.bridge.guarded():
            key = self.bridge.open_trials[trial.trial_id]
            if "record" in result:
                del self.bridge.open_trials[trial.trial_id]
                self.bridge.ended(key, TrialRecord(**json.loads(result["record"])))
            else:
                self.bridge.controller.reported(key, result["epoch"], json.loads(result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Passes on that the scheduler stopped a trial. `stop` leaves the trial open."""
        with self.bridge.guarded():
            key = self.bridge.open_trials.pop(trial.trial_id, None)
            if key is not None and not self.bridge.is_stopping():
                self.bridge.controller.stopped_early(key, seconds=trial.last_result.get("time_total_s", 0.0))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Passes on why a process died or ended itself. `stop` leaves its trial open."""
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
    """Returns what Tune wrote about the failure of a trial."""
    try:
        return Path(trial.error_file or "").read_text()
    except OSError:
        return ""


def _cause_of_death(said: str) -> tuple[Cause, str]:
    if OUT_OF_MEMORY.search(said):
        return (
            "killed_for_memory",
            "its process was killed because the machine ran out of memory; lower search.max_concurrent",
        )
    return "process_died", "its process died: killed from outside, or crashed in native code (see ray.log)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
