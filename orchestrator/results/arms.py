"""The arms of a sweep, from its ledger: which trials belong together, what they hold, which one is best.

An arm is one trial, or one configuration over several seeds and folds. Its values are means over its trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from orchestrator.search.constraints import Breach, Limit, breaches
from orchestrator.search.metric_keys import own_key
from orchestrator.storage.ledger import SweepState, TrialState

Arm = Sequence[TrialState]
CONFIRMED, PLAIN, INFEASIBLE = range(3)


@dataclass(frozen=True)
class Terms:
    """On what terms the arms of a sweep compare."""

    objective: str  # higher is better
    also_minimise: str | None
    limits: dict[str, Limit]
    num_seeds: int  # that the best arms end up with; 1 = nothing is confirmed
    num_confirmed: int  # of the best arms
    num_repeated: int = 1  # seeds that every arm runs on; 1 where arms repeat over folds too

    @property
    def num_whole(self) -> int:
        """How many training seeds a whole arm stands for."""
        return max(self.num_seeds, self.num_repeated)


def terms(state: SweepState) -> Terms:
    """Returns the terms that a sweep was started on."""
    space = state.started.space
    search = space.get("search", {})
    return Terms(
        objective=objective(state),
        also_minimise=space.get("also_minimise"),
        limits={key: Limit(**entry) for key, entry in space.get("constraints", {}).items()},
        num_seeds=search.get("seeds", 1),
        num_confirmed=search.get("num_confirmed", 0),
        num_repeated=_num_repeated(space.get("repeat", {})),
    )


def _num_repeated(repeat: Mapping[str, Sequence[int]]) -> int:
    """Returns how many seeds arms repeat over; 1 beside folds, which share training images."""
    return 1 if "data.fold" in repeat else len(set(repeat.get("seed", [0])))


def objective(state: SweepState) -> str:
    """Returns the key that ranks trials, such as `val/probe_joint/macro_auroc`; higher is better."""
    return state.started.objective


def finished_arms(state: SweepState) -> list[list[TrialState]]:
    """Returns the finished trials as placed, those that differ in seed and fold alone together."""
    arms: dict[str, list[TrialState]] = {}
    for trial in state.trials.values():
        if trial.status == "finished":
            arms.setdefault(trial.arm_key, []).append(trial)
    return list(arms.values())


def best_arm(state: SweepState) -> list[TrialState] | None:
    """Returns the arm that ranks first.

    Infeasible arms are none; once an arm is confirmed on all seeds, neither are those that are not.
    """
    agreed = terms(state)
    arms = [
        arm for arm in finished_arms(state) if mean(arm, own_key(agreed.objective, arm[0].config)) is not None
    ]
    standing = standings(arms, agreed)
    feasible = [arm for arm in arms if standing[arm[0].arm_key] != INFEASIBLE]
    return min(feasible, key=lambda arm: (standing[arm[0].arm_key], *rank(arm, agreed)), default=None)


def rank(arm: Arm, agreed: Terms) -> tuple[float, float]:
    """Returns what arms sort by: a high objective first, ties by a low negative log-likelihood."""
    goal = own_key(agreed.objective, arm[0].config)
    nll = f"{goal.rpartition('/')[0]}/nll"
    return -(mean(arm, goal) or 0.0), mean(arm, nll) or 0.0


def standings(arms: Sequence[Arm], agreed: Terms) -> dict[str, int]:
    """Returns what comes first on a board, by arm key: `CONFIRMED` arms, `PLAIN` ones, `INFEASIBLE` ones.

    A frozen encoder has no seed, so it stands beside confirmed arms as it is; beside plain ones where there
    are none, or it would always lead.
    """
    confirmed = [arm for arm in arms if agreed.num_whole > 1 and len(arm) >= agreed.num_whole]
    seedless = [arm for arm in arms if is_seedless(arm)] if confirmed else []
    first = {arm[0].arm_key for arm in (*confirmed, *seedless)}
    broken = {arm[0].arm_key for arm in arms if broken_by(arm, agreed)}
    keys = [arm[0].arm_key for arm in arms]
    return {key: INFEASIBLE if key in broken else CONFIRMED if key in first else PLAIN for key in keys}


def broken_by(arm: Arm, agreed: Terms) -> tuple[Breach, ...]:
    """Returns the constraints that an arm breaks."""
    found = {key: mean(arm, own_key(key, arm[0].config)) for key in agreed.limits}
    values = {key: value for key, value in found.items() if value is not None}
    return breaches(agreed.limits, values)


def is_seedless(arm: Arm) -> bool:
    """Says whether a seed would change nothing: nothing trains."""
    return arm[0].config.get("adapt.method") == "none"


def mean(arm: Arm, key: str) -> float | None:
    """Returns the mean of a metric over an arm's trials; None if none has it."""
    found = [trial.metrics[key] for trial in arm if key in trial.metrics]
    return fmean(found) if found else None


def over_trials(arm: Arm, key: str, agreed: Terms) -> Estimate | None:
    """Returns a trial's estimate over patients; of several trials the mean, with its interval over seeds.

    Arms that repeat over folds have none: folds share training images, so they vary less than they should.
    """
    found = [each for trial in arm if (each := estimate(trial.metrics, key))]
    if len(found) <= 1:
        return found[0] if found else None
    values = [each.value for each in found]
    return over_seeds(values) if agreed.num_whole > 1 else Estimate(fmean(values))


def differs(arm: Arm, key: str, other: Arm, other_key: str) -> bool | None:
    """Says whether two arms can be told apart: the 95 % t-interval over their common seeds lies beside 0.

    None: they have fewer than two seeds in common. What has no seed is the same on each.
    """
    ours, theirs = _by_seed(arm, key), _by_seed(other, other_key)
    if is_seedless(arm):
        ours = dict.fromkeys(theirs, next(iter(ours.values())))
    elif is_seedless(other):
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    common = ours.keys() & theirs.keys()
    if len(common) < 2:
        return None
    difference = over_seeds([ours[seed] - theirs[seed] for seed in sorted(common)])
    assert difference.low is not None
    assert difference.high is not None
    return not difference.low <= 0 <= difference.high


def _by_seed(arm: Arm, key: str) -> dict[int, float]:
    return {trial.config["seed"]: trial.metrics[key] for trial in arm if key in trial.metrics}


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


def estimate(metrics: Mapping[str, float], key: str) -> Estimate | None:
    """Returns a metric with its `_low` and `_high` twins, over patients; None if it is absent."""
    if key not in metrics:
        return None
    return Estimate(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean with its 95 % t-interval; one value has none."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean)
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs] # only where it is used

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)
