"""Reads the test labels once, at the end of a sweep, for the arms chosen on val. No other code reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.driver.controller import Controller
from orchestrator.results.arms import best_arm, finished_arms
from orchestrator.results.leaderboard import leaderboard
from orchestrator.search.parameters import SEARCHABLE_DATA
from orchestrator.search.space import SearchSpace
from orchestrator.storage.events import Evaluated, OpenedTest
from orchestrator.storage.ledger import SweepState, TrialState
from trainables.artifacts import fingerprint
from trainables.config import from_flat
from trainables.data.datasets import load_dataset

# Imports inside functions: scikit-learn and SciPy load while the last trials run, not before the first.

PREDICTIONS = "results/predictions.parquet"


def open_test(controller: Controller, arms: list[list[TrialState]]) -> None:
    """Records that the test labels are read for these arms, reads them, and records the test results.

    An arm is one configuration with all its seeds and folds. Each fold has its own test images.
    """
    trials = _predicted(arms)
    if is_evaluated(controller.state, arms):  # also if no trial has predictions
        return
    from trainables.scoring.comparisons import System
    from trainables.scoring.judge_arms import evaluate_arms, open_cases
    from trainables.scoring.tasks import TASKS
    from trainables.scoring.test_predictions import ScoredTrial

    controller.say(f"reading the test labels, once, to score {len(trials)} trials")
    keys, before = [trial.trial_key for trial in trials], controller.state.test_opened
    if before and before[-1][1].trial_keys != keys:
        controller.say(f"the test labels were already read at {before[-1][0]}; the ledger records both times")
    reason = "end of sweep" if not before else "the sweep went on"
    controller.record(OpenedTest(trial_keys=keys, reason=reason))
    found: dict[str, Any] = {}
    first = first_on_val(controller.state, arms)
    for group in by_data(trials):
        configs = [from_flat(trial.config) for trial in group]
        folds = {config.data.fold: config.data for config in configs}
        datasets = [load_dataset(data, with_test_labels=True) for data in folds.values()]
        scored = [
            ScoredTrial(
                trial.trial_key,
                trial.arm_key,
                seed=config.seed,
                fold=config.data.fold,
                predictions=controller.folder / trial.workdir / PREDICTIONS,
                is_frozen=config.adapt.method == "none",
                encoder=fingerprint(config.encoder),
            )
            for trial, config in zip(group, configs, strict=True)
        ]
        result = evaluate_arms(
            scored,
            open_cases(*datasets),
            class_pairs=TASKS[datasets[0].task].class_pairs(datasets[0]),
            first=System(*first) if first else None,
        )
        found = join(found, result.to_dict())
    controller.record(Evaluated(**found, first={"arm": first[0], "system": first[1]} if first else None))


def first_on_val(state: SweepState, arms: list[list[TrialState]]) -> tuple[str, str] | None:
    """Returns arm and system of the best row on val, among the arms scored on test. None = no such row."""
    opened = {arm[0].arm_key for arm in arms}
    rows = (row for row in leaderboard(state).rows if row.arm_key in opened and not row.breaches)
    return next(((row.arm_key, row.system) for row in rows), None)


def is_evaluated(state: SweepState, arms: list[list[TrialState]]) -> bool:
    """Says whether the ledger has the test results of all these arms."""
    known = (state.evaluated or Evaluated()).arms
    return all(trial.trial_key in known for trial in _predicted(arms))


def _predicted(arms: list[list[TrialState]]) -> list[TrialState]:
    return [trial for arm in arms for trial in arm if PREDICTIONS in trial.results]


def arms_to_open(state: SweepState, space: SearchSpace) -> list[list[TrialState]]:
    """Returns the arms to score on test: all named arms, or the baselines and the best arms of a search.

    The best arms are the best one by the objective, and those in three rows of the leaderboard: the first
    row, the first row of an adapted encoder, and the first row of a frozen encoder. So adapted and frozen
    encoders can always be compared.
    """
    arms = finished_arms(state)
    if space.arms or space.evaluation.open_test == "all":
        return arms
    predicted = {key: trial for key, trial in state.trials.items() if PREDICTIONS in trial.results}
    judged = replace(state, trials=predicted)  # a trial that a scheduler stopped has no predictions
    rows = [row for row in leaderboard(judged).rows if not row.breaches]
    adapted = [row for row in rows if row.method not in ("none", "baseline")]
    frozen = [row for row in rows if row.method == "none"]
    opened = {row.arm_key for kind in (rows, adapted, frozen) for row in kind[:1]}
    opened |= {trial.arm_key for trial in best_arm(judged) or ()}
    return [arm for arm in arms if arm[0].is_baseline or arm[0].arm_key in opened]


def by_data(trials: list[TrialState]) -> list[list[TrialState]]:
    """Returns the trials grouped by data set; the folds of one data set stay together."""
    groups: dict[str, list[TrialState]] = {}
    for trial in trials:
        data = {key: value for key, value in trial.config.items() if key.startswith("data.")}
        for varied in ("data.fold", *SEARCHABLE_DATA):
            data.pop(varied, None)
        data = {key: value for key, value in data.items() if not key.startswith("data.adapt_on.")}
        groups.setdefault(fingerprint(data), []).append(trial)
    return list(groups.values())


def join(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merges two evaluations of different trials. For single values, `one` takes precedence."""
    joined = dict(one)
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(joined.get(key), dict):
            joined[key] = value | joined[key]
        elif isinstance(value, list) and key in joined:
            joined[key] = joined[key] + value
        else:
            joined.setdefault(key, value)
    return joined
