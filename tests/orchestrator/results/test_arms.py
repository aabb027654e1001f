from dataclasses import replace

import pytest

from orchestrator.results.arms import (
    CONFIRMED,
    INFEASIBLE,
    PLAIN,
    Estimate,
    Terms,
    best_arm,
    differs,
    over_seeds,
    over_trials,
    standings,
    terms,
)
from orchestrator.results.seed_repeats import next_to_confirm
from orchestrator.search.constraints import Limit
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import SweepState, TrialState

OBJECTIVE, WEIGHTS = "val/probe_joint/macro_auroc", "perf/num_trainable_parameters"
AGREED = Terms(OBJECTIVE, None, {WEIGHTS: Limit(at_most=100)}, num_seeds=3, num_confirmed=2)


def arm_of(name: str, *scores: float, weights: float = 50, method: str = "lora") -> list[TrialState]:
    arm: list[TrialState] = []
    for seed, score in enumerate(scores):
        trial = TrialState(f"{name}-{seed}", name, name, {"seed": seed, "adapt.method": method})
        trial.status, trial.metrics = "finished", {OBJECTIVE: score, WEIGHTS: weights}
        arm.append(trial)
    return arm


def frozen(score: float) -> list[TrialState]:
    return arm_of("frozen", score, weights=0, method="none")


def state_of(*arms: list[TrialState]) -> SweepState:
    search = {"seeds": AGREED.num_seeds, "num_confirmed": AGREED.num_confirmed}
    space = {"search": search, "constraints": {WEIGHTS: {"at_most": 100}}}
    state = SweepState("s", started=SweepStarted(name="s", objective=OBJECTIVE, space=space))
    state.trials = {trial.trial_key: trial for arm in arms for trial in arm}
    return state


def test_the_interval_over_seeds_is_student_s():
    found = over_seeds([0.8, 0.9, 1.0])
    assert found.value == pytest.approx(0.9)
    assert found.high == pytest.approx(0.9 + 4.30265 * 0.1 / 3**0.5, abs=1e-6)  # t at 2 degrees of freedom
    assert found.low == pytest.approx(2 * 0.9 - (found.high or 0))
    assert found.num_seeds == 3
    assert over_seeds([0.8]) == Estimate(0.8)


def test_an_interval_over_two_seeds_stays_inside_the_range_of_its_metric():
    arm = arm_of("a", 0.82, 0.86)
    for trial, nll in zip(arm, (0.1, 0.9), strict=True):
        trial.metrics["val/probe_joint/nll"] = nll
    auroc, nll = (over_trials(arm, key, AGREED) for key in (OBJECTIVE, "val/probe_joint/nll"))
    assert auroc is not None
    assert nll is not None
    assert (auroc.value, auroc.high, auroc.num_seeds) == (pytest.approx(0.84), 1.0, 2)
    assert auroc.low == pytest.approx(0.84 - 12.7062 * 0.02, abs=1e-4)  # t at 1 degree of freedom
    assert (nll.low, nll.high) == (0.0, pytest.approx(0.5 + 12.7062 * 0.4, abs=1e-4))


def test_one_trial_keeps_its_interval_over_patients():
    (trial,) = arm_of("a", 0.8)
    trial.metrics |= {f"{OBJECTIVE}_low": 0.7, f"{OBJECTIVE}_high": 0.9}
    found = over_trials([trial], OBJECTIVE, AGREED)
    assert found is not None
    assert (found.low, found.high) == (0.7, 0.9)


def test_confirmed_arms_come_first_and_infeasible_ones_last():
    arms = [
        arm_of("lucky", 0.99),
        arm_of("sure", 0.8, 0.81, 0.82),
        arm_of("large", 0.9, 0.9, 0.9, weights=101),
        arm_of("two", 0.9, 0.9),
        frozen(0.7),
    ]
    assert standings(arms, AGREED) == {
        "lucky": PLAIN, "sure": CONFIRMED, "large": INFEASIBLE, "two": PLAIN, "frozen": CONFIRMED,
    }  # fmt: skip
    best = best_arm(state_of(*arms))
    assert best is not None
    assert best[0].name == "sure"


def test_before_anything_is_confirmed_a_frozen_encoder_stands_where_its_score_puts_it():
    best = best_arm(state_of(frozen(0.7), arm_of("a", 0.8), arm_of("large", 0.9, weights=101)))
    assert best is not None
    assert best[0].name == "a"


@pytest.mark.parametrize(
    ("repeat", "expected"), [({"seed": [0, 1, 2]}, 3), ({"seed": [0, 1, 2], "data.fold": [0, 1]}, 1), ({}, 1)]
)
def test_arms_that_repeat_over_seeds_are_whole_with_all_of_them_and_nothing_is_confirmed(
    repeat: dict[str, list[int]], expected: int
):
    whole, part = arm_of("whole", 0.8, 0.81, 0.82), arm_of("part", 0.9, 0.9)
    state = state_of(whole, part, frozen(0.7))
    state.started = replace(state.started, space={"repeat": repeat})
    agreed = terms(state)
    assert agreed.num_whole == expected
    assert (over_trials(whole, OBJECTIVE, agreed).low is None) is (expected == 1)
    assert standings([whole, part], agreed)["part"] == PLAIN
    best = best_arm(state)
    assert best is not None
    assert best[0].name == ("whole" if expected == 3 else "part")
    assert next_to_confirm(state) is None


def classifier(name: str, score: float, *, from_scratch: bool = False, **fields: float) -> list[TrialState]:
    (trial,) = arm_of(name, 0.0, method="baseline", **fields)
    trial.config["baseline.from_scratch"] = from_scratch
    system = "baseline_from_scratch" if from_scratch else "baseline"
    trial.metrics = {f"val/{system}/macro_auroc": score, WEIGHTS: trial.metrics[WEIGHTS]}
    return [trial]


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_baseline_ranks_by_its_own_system(from_scratch: bool):
    lora, other = arm_of("a", 0.8), classifier("b", 0.85, from_scratch=from_scratch)
    for state, expected in ((state_of(lora, other), "b"), (state_of(arm_of("a", 0.9), other), "a")):
        best = best_arm(state)
        assert best is not None
        assert best[0].name == expected


def test_a_baseline_is_bound_by_the_same_constraints():
    best = best_arm(state_of(arm_of("a", 0.8), classifier("b", 0.85, weights=101)))
    assert best is not None
    assert best[0].name == "a"


def test_where_all_arms_are_infeasible_none_is_best():
    assert best_arm(state_of(arm_of("a", 0.8, weights=101), arm_of("b", 0.9, weights=102))) is None


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.80, 0.70, 0.60), True),  # always .05 worse: pairing takes the seeds' own spread away
        ((0.90, 0.60, 0.70), False),
        ((0.85, 0.75, 0.65), False),  # the same on every seed
        ((0.80,), None),
    ],
)
def test_arms_are_told_apart_over_the_same_seeds(scores: tuple[float, ...], expected: bool | None):
    best = arm_of("best", 0.85, 0.75, 0.65)
    assert differs(arm_of("other", *scores), OBJECTIVE, best, OBJECTIVE) is expected


def test_a_frozen_encoder_is_the_same_on_every_seed():
    best = arm_of("best", 0.85, 0.86, 0.84)
    assert differs(frozen(0.7), OBJECTIVE, best, OBJECTIVE) is True
    assert differs(best, OBJECTIVE, frozen(0.85), OBJECTIVE) is False
    assert differs(frozen(0.7), OBJECTIVE, frozen(0.6), OBJECTIVE) is None
