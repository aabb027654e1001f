"""Computes the test metrics of every arm, with intervals by patient, and paired differences between arms.

A trial scores the test images of one fold with one seed. The folds of a seed are joined, so that every test
image is scored once. Metrics are averaged over seeds, with the same draws of patients. Differences use the
same images and draws. The only choice on test is the reference: the strongest frozen probe. This choice can
only make a gain smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from trainables.data.records import Dataset
from trainables.scoring.bootstrap import NUM_DRAWS, Bootstrap, Draws, average_runs, intervals, to_metrics
from trainables.scoring.comparisons import System, against, comparisons, frozen_probes, paired_rows
from trainables.scoring.finding_table import finding_rows
from trainables.scoring.metric_names import CONTROLS, is_few_shot, split_draw
from trainables.scoring.metrics import ClassPairs
from trainables.scoring.tasks import SystemMetrics, task_of
from trainables.scoring.test_predictions import (
    Cases,
    Scored,
    ScoredTrial,
    by_arm,
    by_seed,
    join_folds,
    read_scored,
)

MAX_FOLDS = 16  # number of folds whose draws stay in memory


@dataclass
class EvaluationResult:
    """The content of the ledger's `evaluated` event. In `paired`, differences to the reference come first."""

    arms: dict[str, dict[str, float]] = field(default_factory=dict)
    """trial_key → `test/<system>/<metric>` with `_low` and `_high`, on the trial's own test images."""
    pooled: dict[str, dict[str, float]] = field(default_factory=dict)
    """arm_key → the same metrics over all folds and seeds of an arm with several trials."""
    paired: list[dict[str, Any]] = field(default_factory=list)
    """Differences a − b: arm_a, system_a, arm_b, system_b, metric, difference, low, high, p. A control's arm
    is None."""
    controls: dict[str, float] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    """The rows of `finding_table.finding_rows` with arm and system, over all folds and seeds of an arm."""
    reference: dict[str, str] | None = None
    """Arm and system of the frozen probe with the highest headline metric on test."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        return dict(vars(self))


def open_cases(*datasets: Dataset) -> Cases:
    """Returns the labels and patients of all test images of data sets that were loaded with test labels."""
    targets: dict[str, Any] = {}
    patients: dict[str, str] = {}
    for dataset in datasets:
        test = dataset.indices("test")
        image_ids = [dataset.records[i].image_id for i in test]
        targets |= dict(zip(image_ids, dataset.targets(test), strict=True))
        patients |= dict(zip(image_ids, dataset.patients(test).tolist(), strict=True))
    return Cases(targets, patients, datasets[0].classes)


def evaluate_arms(
    trials: Sequence[ScoredTrial],
    cases: Cases,
    *,
    class_pairs: ClassPairs | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    first: System | None = None,
) -> EvaluationResult:
    """Returns the test metrics of every trial and every arm, and the differences between systems.

    An arm that lacks a prediction for a test image is left out of `pooled` and `paired`, with a note.

    Args:
        trials: the trials to score, with different keys.
        cases: labels of every test image of every fold.
        class_pairs: pairs of classes for which metrics are added, see `sources.same_source_pairs`.
        num_draws: number of bootstrap draws of patients.
        seed: seed of the draws.
        first: the system that ranked first on val. Every system is compared with it.
    """

    @lru_cache(maxsize=MAX_FOLDS)
    def bootstrap_of(image_ids: tuple[str, ...]) -> Bootstrap:
        targets, patients = cases.arrays(image_ids)
        return Bootstrap(targets, patients, seed=seed, num_draws=num_draws, class_pairs=class_pairs)

    result = EvaluationResult(arms={trial.trial_key: {} for trial in trials})
    targets, _ = cases.arrays(list(cases.targets))
    task = task_of(targets)
    result.notes += task.explain_gaps(targets, cases.class_names, split="test")
    pooled: set[System] = set()
    draws: dict[System, Draws] = {}  # draws of the systems that are compared
    for arm, of_arm in by_arm(trials).items():  # one arm at a time, as memory may not hold all scores
        scored = {trial: read_scored(trial, cases, bootstrap_of) for trial in of_arm}
        for trial, systems in scored.items():
            result.arms[trial.trial_key] = trial_metrics(systems, is_alone=len(of_arm) == 1)
        for name, seeds in by_seed(scored).items():
            system = System(None if name in CONTROLS else arm, name)
            if system in pooled:  # a control, which many arms have: the first is enough
                continue
            pooled.add(system)
            values = pool(system, seeds, len(cases.targets), result.notes)
            if values is None:
                continue
            metrics = to_metrics("test", name, intervals(values.overall))
            if not is_few_shot(name):
                named = {"arm": system.arm, "system": name}
                result.findings += finding_rows(targets, cases.class_names, values.by_finding, named)
            if system.arm is None:
                result.controls |= metrics
            elif len(of_arm) > 1:
                result.pooled.setdefault(arm, {}).update(metrics)
            if system == first or not is_few_shot(name):
                draws[system] = values.overall
    arms = {trial.arm_key: trial for trial in trials}
    probes = frozen_probes(draws, arms, task.headline)
    if probes:
        result.reference = {"arm": str(probes[0].arm), "system": probes[0].name}
    compared = [system for system in draws if not is_few_shot(system.name)]
    pairs = list(comparisons(compared, arms, probes))
    if first is not None and first in draws:
        pairs += against(first, compared)
    for one, other in dict.fromkeys(pairs):
        result.paired += paired_rows(one, other, draws)
    return result


def trial_metrics(systems: Mapping[str, Scored], *, is_alone: bool) -> dict[str, float]:
    """Returns the metrics of a trial's systems on the trial's test images.

    Draws of a few-shot system are averaged. Few-shot systems are left out if the arm has several trials.
    """
    drawn: dict[str, list[Scored]] = {}
    for name, scored in systems.items():
        system, _ = split_draw(name)
        if system not in CONTROLS and (is_alone or not is_few_shot(system)):
            drawn.setdefault(system, []).append(scored)
    metrics: dict[str, float] = {}
    for system, of_system in drawn.items():
        metrics |= to_metrics(
            "test", system, intervals(average_runs([each.draws for each in of_system]).overall)
        )
    return metrics


def pool(system: System, seeds: list[list[Scored]], num_cases: int, notes: list[str]) -> SystemMetrics | None:
    """Returns the draws of a system, averaged over seeds, or None if no seed scores every test image.

    A seed whose folds miss a test image is left out, with a note in `notes`.
    """
    joined = [join_folds(parts, num_cases) for parts in seeds]
    whole = [scored for scored in joined if scored is not None]
    if len(whole) < len(joined):
        notes.append(
            f"{system.arm or 'control'} {system.name}: {len(joined) - len(whole)} of {len(joined)} seeds "
            f"do not score all {num_cases} test images; they are left out of pooled values and differences"
        )
    return average_runs([scored.draws for scored in whole]) if whole else None
