"""Trial schedulers of Ray Tune, which stop weak trials early."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.search.space import SearchSpace
from orchestrator.storage.ledger import SweepState

REDUCTION_FACTOR = 3


def open_scheduler(space: SearchSpace) -> TrialScheduler:
    """Returns the Tune scheduler, which compares the objective after each epoch."""
    by_score: dict[str, Any] = {"time_attr": "epoch", "metric": "score", "mode": "max", "grace_period": 1}
    match space.search.scheduler:
        case "asha":
            beyond_the_last = _num_epochs(space) + 1  # a trial at max_t is stopped before its end
            return ASHAScheduler(**by_score, max_t=beyond_the_last, reduction_factor=REDUCTION_FACTOR)
        case "median":
            return MedianStopping(**by_score)
        case _:
            return FIFOScheduler()


def early_stopping_note(space: SearchSpace) -> str | None:
    """Returns a warning if early stopping cannot save time, else None."""
    kind, num_trials, num_epochs = space.search.scheduler, space.num_trials, _num_epochs(space)
    if kind == "none":
        return None
    if num_epochs < REDUCTION_FACTOR:
        return f"{kind}: trials of {num_epochs} epochs end before they can be compared, so no time is saved"
    if num_trials < REDUCTION_FACTOR**2:
        return (
            f"{kind}: {num_trials} trials are too few to compare well, so little time is saved, and a "
            "trial that learns slowly may be stopped; consider search.scheduler=none"
        )
    return None


def _num_epochs(space: SearchSpace) -> int:
    parameter = space.parameters.get("num_epochs")
    return max(map(int, map(str, parameter.corners()))) if parameter else space.base("num_epochs")


@dataclass(frozen=True)
class PastTrial:
    """A finished trial of an earlier driver, with the attribute that schedulers read."""

    trial_id: str


def remind(scheduler: TrialScheduler, state: SweepState, objective: str) -> None:
    """Tells a scheduler the scores of the finished trials of a resumed sweep."""
    for key, trial in state.trials.items():
        if trial.status != "finished" or trial.confirms:
            continue  # other trials report again; other seeds are not compared
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
    """Tune's median rule, which also accepts trials without a score, such as failed trials."""

    def remember(self, trial: Trial, result: dict[str, Any]) -> None:
        """Adds a result of a finished trial."""
        self._results[trial].append(result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Passes a trial to Tune's rule if the trial has a score."""
        if "score" in result:
            super().on_trial_complete(tune_controller, trial, result)
