"""Ray Tune as a disposable executor: it asks the controller for trials and tells it what they report."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.ray_watchdog import NoRoom, undisturbed, watched_node
from orchestrator.driver.controller import Controller
from orchestrator.search.space import SearchSpace
from orchestrator.storage.ledger import SweepState
from orchestrator.worker.failures import OUT_OF_MEMORY, last_words
from orchestrator.worker.runner import run_trial
from orchestrator.worker.trial_spec import Cause, TrialRecord, TrialSpec
from trainables.errors import DataError

# Imports inside functions: a sweep on this machine asks no cluster.

REDUCTION_FACTOR = 3
OF_A_LOST_NODE: tuple[Cause | None, ...] = ("process_died", "crash")
"""What the workers that are left say when a node is lost; what a trial says of itself stands."""
NODE_DIED = re.compile("node (it was running on )?(has died|is dead|was preempted)|node was terminated")
"""In what Ray says of an actor that went with its node."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)

logger = logging.getLogger(__name__)


def run_trials(
    controller: Controller,
    space: SearchSpace,
    *,
    max_concurrent: int,
    scratch: Path,
    is_stopping: Callable[[], bool] = lambda: False,
    cluster: Cluster | None = None,
) -> bool:
    """Runs trials until the controller has no more, or Tune is told to stop; says whether it got there.

    False: Ray or Tune broke under the trials, which another call, on another Ray, goes on with.

    Args:
        controller: gives out trials, takes in what they say.
        space: has the trial scheduler.
        max_concurrent: trials at once.
        scratch: for Tune's own files.
        is_stopping: once true, no trial is placed any more, and running ones end with their epoch.
        cluster: whose nodes may be lost; none = a Ray of our own.

    Raises:
        DataError: the ledger could not be written; running trials were stopped.
        Exception: whatever else broke the controller; likewise.
    """
    desk = Desk(controller, is_stopping)
    has_ended = True
    try:
        with watched_cluster(desk, cluster) as find_stuck, watched_node(find_stuck):
            open_tuner(desk, space, max_concurrent=max_concurrent, scratch=scratch).fit()
    except Exception as error:  # such as a process of Tune's that died while it started
        has_ended = False
        desk.broke_down(error)
    if isinstance(desk.problem, OSError) and desk.problem.errno in UNWRITABLE:
        reason = desk.problem.strerror or desk.problem
        raise DataError(
            f"{controller.folder}: cannot be written ({reason}), so the sweep was stopped; its ledger is "
            "kept. Free some space"
        ) from desk.problem
    if desk.problem is not None:
        raise desk.problem
    return has_ended


@contextmanager
def watched_cluster(desk: Desk, cluster: Cluster | None) -> Generator[Callable[[], str]]:
    """Yields what looks after the nodes of a cluster, if there is one; see `PendingTrials`."""
    if cluster is None:
        yield lambda: ""
        return
    from orchestrator.cluster.cluster_state import lost_under
    from orchestrator.driver.pending_trials import PendingTrials

    address, job_id = cluster.address, ray.get_runtime_context().get_job_id()
    desk.find_lost = partial(lost_under, address, job_id)
    watch = PendingTrials(
        desk.controller, lambda: list(desk.open_trials.values()), address, job_id, desk.is_stopping
    )
    try:
        yield watch
    finally:
        watch.close()


def open_tuner(desk: Desk, space: SearchSpace, *, max_concurrent: int, scratch: Path) -> tune.Tuner:
    """Returns Tune, told what to ask, what to tell, and what the finished trials scored."""
    controller, scheduler = desk.controller, open_scheduler(space)
    remind(scheduler, controller.state, space.objective)
    return tune.Tuner(
        tune.with_resources(run_trial, controller.order.resources()),
        tune_config=tune.TuneConfig(
            search_alg=Asker(desk),
            scheduler=scheduler,
            num_samples=-1,  # until the asker says that it is finished
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,  # Tune's own holds every parameter
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Teller(desk)],
            stop=StopAtEpoch(desk),
        ),
    )


def open_scheduler(space: SearchSpace) -> TrialScheduler:
    """Returns what stops trials early, by the objective after each epoch."""
    by_score: dict[str, Any] = {"time_attr": "epoch", "metric": "score", "mode": "max", "grace_period": 1}
    match space.search.scheduler:
        case "asha":
            beyond_the_last = _num_epochs(space) + 1  # who gets there is stopped, and must not miss its end
            return ASHAScheduler(**by_score, max_t=beyond_the_last, reduction_factor=REDUCTION_FACTOR)
        case "median":
            return MedianStopping(**by_score)
        case _:
            return FIFOScheduler()


def honest_sentence(space: SearchSpace) -> str | None:
    """Says where stopping early cannot pay off; None where it can."""
    kind, num_trials, num_epochs = space.search.scheduler, space.num_trials, _num_epochs(space)
    if kind == "none":
        return None
    if num_epochs < REDUCTION_FACTOR:
        return f"{kind}: trials of {num_epochs} epochs are over before they can be compared; nothing is saved"
    if num_trials < REDUCTION_FACTOR**2:
        return (
            f"{kind}: among {num_trials} trials there is little to compare with, so little is saved and a "
            "slow starter may be lost; search.scheduler=none costs little more"
        )
    return None


def _num_epochs(space: SearchSpace) -> int:
    parameter = space.parameters.get("num_epochs")
    return max(map(int, map(str, parameter.corners()))) if parameter else space.base("num_epochs")


@dataclass(frozen=True)
class PastTrial:
    """A trial that an earlier driver ran, where a scheduler compares."""

    trial_id: str


def remind(scheduler: TrialScheduler, state: SweepState, objective: str) -> None:
    """Tells a scheduler what the finished trials of a resumed sweep scored on their way."""
    for key, trial in state.trials.items():
        if trial.status != "finished" or trial.confirms:
            continue  # the others say again what they said; those that confirm are not compared
        past: Any = PastTrial(key)
        if isinstance(scheduler, ASHAScheduler):
            scheduler.on_trial_add(cast(Any, None), past)
        for _, epoch, metrics in trial.history:
            goal = trial.own_key(objective)
            if goal not in metrics:
                continue
            result = {"epoch": epoch, "score": metrics[goal]}
            if isinstance(scheduler, MedianStopping):
                scheduler.remember(past, result)
            else:
                scheduler.on_trial_result(cast(Any, None), past, result)


class MedianStopping(MedianStoppingRule):
    """Tune's rule, which expects a score of every trial that ends; failed ones have none."""

    def remember(self, trial: Trial, result: dict[str, Any]) -> None:
        """Takes in what is long over: no decision is due."""
        self._results[trial].append(result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Passes on what can be compared."""
        if "score" in result:
            super().on_trial_complete(tune_controller, trial, result)


class Desk:
    """What asker and teller share. No exception leaves it for Tune, which would end without cleaning up."""

    def __init__(self, controller: Controller, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self.controller = controller
        self.is_stopping = is_stopping
        self.open_trials: dict[
            str, str
        ] = {}  # Tune's id → trial_key; a trial leaves when its end is recorded
        self.problem: Exception | None = None
        self.find_lost: Callable[[str, int], set[str]] | None = None  # nodes of an attempt, on a cluster

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        """Pickles to nothing: Tune stores its parts for a restore that never comes."""
        return str, ()

    def broke_down(self, error: Exception) -> None:
        """Takes in that Tune ended with an exception, and its trials with it.

        If the user has ended the sweep, Ray may have got the same signal: the trials stay open.
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
                self.controller.circuit_breaker.note_crash()  # one, however many trials ran
            while self.open_trials:
                _, key = self.open_trials.popitem()
                self.controller.failed(key, cause, reason)

    def ended(self, key: str, record: TrialRecord) -> None:
        """Takes in how an attempt ended; with a node that it stood on, whatever its workers made of it."""
        lost = self.lost_nodes(key) if record.cause in OF_A_LOST_NODE else set[str]()
        if lost:
            self.controller.lost_node(key, lost)
        else:
            self.controller.ended(key, record)

    def lost_nodes(self, key: str) -> set[str]:
        """Returns the nodes that an attempt stood on and that are gone."""
        if self.find_lost is None:
            return set()
        return self.find_lost(key, self.controller.state.trials[key].attempts)

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Keeps the first exception for `run_trials`; after it, no trial is placed any more."""
        with undisturbed():
            try:
                yield
            except Exception as error:
                self.problem = self.problem or error


class StopAtEpoch(tune.Stopper):
    """Ends each trial after its epoch once the user wants it; all at once when the controller is broken."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Is asked after each epoch, whose checkpoint is on disk; a trial that is done ends by itself."""
        return self.desk.is_stopping() and "record" not in result

    def stop_all(self) -> bool:
        """Is asked after every result; nobody would write down what trials report to a broken controller."""
        return self.desk.problem is not None


class Asker(Searcher):
    """Tune's searcher: whenever a place is free, the controller's next trial."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def suggest(self, trial_id: str) -> Any:
        """Returns Tune's config of the next trial."""
        if self.desk.problem or self.desk.is_stopping():
            return Searcher.FINISHED
        order: TrialSpec | None = None
        may_come = False
        with self.desk.guarded():
            if (order := self.desk.controller.next_trial()) is not None:
                self.desk.open_trials[trial_id] = order.trial_key
            else:  # a trial that runs may still crash, and then needs a place again
                may_come = bool(self.desk.open_trials) or self.desk.controller.waits_for_space()
        if order is None:
            return None if may_come and not self.desk.problem else Searcher.FINISHED
        return {"order": order.to_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learns nothing here: the controller tells the searcher."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the ledger is the truth, Tune is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class Teller(tune.Callback):
    """Tune's callback, in the driver: what trials report goes to the controller, and so into the ledger."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Takes in an epoch, or the record at the end."""
        with self.desk.guarded():
            key = self.desk.open_trials[trial.trial_id]
            if "record" in result:
                del self.desk.open_trials[trial.trial_id]
                self.desk.ended(key, TrialRecord(**json.loads(result["record"])))
            else:
                self.desk.controller.reported(key, result["epoch"], json.loads(result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Takes in a trial that a scheduler stopped: it ranks by its last value. `stop` leaves it open."""
        with self.desk.guarded():
            key = self.desk.open_trials.pop(trial.trial_id, None)
            if key is not None and not self.desk.is_stopping():
                self.desk.controller.stopped_early(key, seconds=trial.last_result.get("time_total_s", 0.0))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Takes in a process that died, or ended itself; `stop` leaves its trial open."""
        with self.desk.guarded():
            key = self.desk.open_trials.pop(trial.trial_id, None)
            if key is None or self.desk.is_stopping():
                return
            said = _said_of(trial)
            if words := last_words(self.desk.controller.folder / "trials" / key):
                self.desk.controller.failed(key, *words)
            elif (lost := self.desk.lost_nodes(key)) or NODE_DIED.search(said):
                self.desk.controller.lost_node(key, lost)
            else:
                self.desk.controller.died(key, *_cause_of_death(said))


def _said_of(trial: Trial) -> str:
    """Returns what Tune wrote of a trial's failure."""
    try:
        return Path(trial.error_file or "").read_text()
    except OSError:
        return ""


def _cause_of_death(said: str) -> tuple[Cause, str]:
    if OUT_OF_MEMORY.search(said):
        return (
            "killed_for_memory",
            "its process was killed, as the machine ran out of memory; lower search.max_concurrent",
        )
    return "process_died", "its process died: killed from outside, or crashed in native code (see ray.log)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
