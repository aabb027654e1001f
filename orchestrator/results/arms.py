"""The arms of a sweep, read from its ledger: the trials of each arm, its mean values, the best arm.

An arm is one trial, or one configuration with several seeds and folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from orchestrator.search.constraints import Breach, Limit, breaches
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.scoring.metric_names import (
    interval_keys,
    metric_key,
    range_of,
    read_key,
)
from trainables.scoring.significance import student_interval

Arm = Sequence[TrialState]
CONFIRMED, PLAIN, INFEASIBLE = range(3)


@dataclass(frozen=True)
class Terms:
    """The rules by which the arms of a sweep are ranked."""

    objective: str  # the key that ranks trials, such as `val/probe_joint/macro_auroc`; higher is better
    also_minimise: str | None
    limits: dict[str, Limit]
    num_seeds: int  # seeds of the best arms at the end; 1: no arm is confirmed
    num_confirmed: int  # number of best arms that are confirmed
    num_repeated: int = 1  # seeds of every arm; 1 if arms also repeat over folds

    @property
    def metric(self) -> str:
        """The objective's metric, by which every system is ranked."""
        return read_key(self.objective)[2]

    @property
    def num_whole(self) -> int:
        """The number of training seeds of an arm that has all its seeds."""
        return max(self.num_seeds, self.num_repeated)


def terms(state: SweepState) -> Terms:
    """Returns the rules that a sweep started with."""
    space = state.started.space
    search, repeat = space.get("search", {}), space.get("repeat", {})
    return Terms(
        objective=state.started.objective,
        also_minimise=space.get("also_minimise"),
        limits={key: Limit(**entry) for key, entry in space.get("constraints", {}).items()},
        num_seeds=search.get("seeds", 1),
        num_confirmed=search.get("num_confirmed", 0),
        # Folds share training images, so seeds combined with folds are not independent repetitions.
        num_repeated=1 if "data.fold" in repeat else len(set(repeat.get("seed", [0]))),
    )


def finished_arms(state: SweepState) -> list[list[TrialState]]:
    """Returns the finished trials, grouped by arm, in the order in which they started."""
    arms: dict[str, list[TrialState]] = {}
    for trial in state.trials.values():
        if trial.status == "finished":
            arms.setdefault(trial.arm_key, []).append(trial)
    return list(arms.values())


def best_arm(state: SweepState) -> list[TrialState] | None:
    """Returns the arm that ranks first by the objective, or None if no feasible arm has a value.

    If any arm is confirmed on all seeds, the best arm is a confirmed one.
    """
    agreed = terms(state)
    arms = [arm for arm in finished_arms(state) if mean(arm, agreed.objective) is not None]
    standing = standings(arms, agreed)
    feasible = [arm for arm in arms if standing[arm[0].arm_key] != INFEASIBLE]
    return min(feasible, key=lambda arm: (standing[arm[0].arm_key], *rank(arm, agreed)), default=None)


def rank(arm: Arm, agreed: Terms) -> tuple[float, float]:
    """Returns the sort key of an arm: the highest objective first; a tie goes to the lower `nll`."""
    split, system, _ = read_key(agreed.objective)
    return -(mean(arm, agreed.objective) or 0.0), mean(arm, metric_key(split, system, "nll")) or 0.0


def standings(arms: Sequence[Arm], agreed: Terms) -> dict[str, int]:
    """Returns the group of each arm on a leaderboard: `CONFIRMED`, `PLAIN` or `INFEASIBLE`.

    A frozen encoder has no seed. It belongs to the confirmed arms if there are any, else to the plain arms.
    """
    confirmed = [arm for arm in arms if agreed.num_whole > 1 and len(arm) >= agreed.num_whole]
    seedless = [arm for arm in arms if is_seedless(arm)] if confirmed else []
    first = {arm[0].arm_key for arm in (*confirmed, *seedless)}
    broken = {arm[0].arm_key for arm in arms if broken_by(arm, agreed)}
    keys = [arm[0].arm_key for arm in arms]
    return {key: INFEASIBLE if key in broken else CONFIRMED if key in first else PLAIN for key in keys}


def broken_by(arm: Arm, agreed: Terms) -> tuple[Breach, ...]:
    """Returns the constraints that an arm violates."""
    found = {key: mean(arm, key) for key in agreed.limits}
    return breaches(agreed.limits, {key: value for key, value in found.items() if value is not None})


def is_seedless(arm: Arm) -> bool:
    """Returns whether the arm trains nothing, so that every seed gives the same values."""
    return arm[0].config.get("adapt.method") == "none"


def mean(arm: Arm, key: str) -> float | None:
    """Returns the mean of a key of the search space over an arm's trials, or None if no trial has the key."""
    found = [value for trial in arm if (value := trial.value(key)) is not None]
    return fmean(found) if found else None


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, if one was computed."""

    value: float
    low: float | None = None
    high: float | None = None
    num_seeds: int | None = None  # seeds of an interval over seeds; None: it is over patients or draws


def estimate(metrics: Mapping[str, float], key: str) -> Estimate | None:
    """Returns a metric and its interval over patients, or None if the metric is absent."""
    if key not in metrics:
        return None
    low, high = interval_keys(key)
    return Estimate(metrics[key], metrics.get(low), metrics.get(high))


def over_trials(arm: Arm, key: str, agreed: Terms) -> Estimate | None:
    """Returns an arm's value: one trial's, with its interval over patients, or the mean of several trials.

    The mean has an interval over seeds. It has none if the arm repeats over folds: folds share training
    images, so their values vary too little.
    """
    found = [each for trial in arm if (each := estimate(trial.metrics, key))]
    if len(found) <= 1:
        return found[0] if found else None
    values = [each.value for each in found]
    return over_seeds(values, range_of(read_key(key)[2])) if agreed.num_whole > 1 else Estimate(fmean(values))


def over_seeds(values: Sequence[float], within: tuple[float, float] = (-inf, inf)) -> Estimate:
    """Returns the mean and its 95 % t-interval, cut to the range `within`. A single value has no interval."""
    if len(values) < 2:
        return Estimate(fmean(values))
    return Estimate(*student_interval(values, within), num_seeds=len(values))


def differs(arm: Arm, key: str, other: Arm, other_key: str) -> bool | None:
    """Returns whether two arms differ: the 95 % t-interval of their difference over common seeds excludes 0.

    Returns None if they have fewer than two common seeds. An arm without a seed has one value for all seeds.
    """
    ours, theirs = _by_seed(arm, key), _by_seed(other, other_key)
    if is_seedless(arm):
        ours = dict.fromkeys(theirs, next(iter(ours.values())))
    elif is_seedless(other):
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    common = ours.keys() & theirs.keys()
    if len(common) < 2:
        return None
    _, low, high = student_interval([ours[seed] - theirs[seed] for seed in sorted(common)])
    return not low <= 0 <= high


def _by_seed(arm: Arm, key: str) -> dict[int, float]:
    return {trial.config["seed"]: trial.metrics[key] for trial in arm if key in trial.metrics}
