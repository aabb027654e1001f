"""Opens the test labels, once, and says how every arm does: with intervals, paired with the frozen probe.

A trial scores the test part of one fold with one seed. Per seed the folds are joined, so that every case is
scored once; over seeds every metric is averaged; patients are drawn once for all seeds together. Differences
are taken on identical cases and identical draws. Nothing is chosen here but the frozen probe to beat: it is
the strongest on test, which can only shrink a gain.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.artifacts import file_sha256, write_atomically
from trainables.audit import same_source_pairs
from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.metrics import (
    NUM_DRAWS,
    ClassPairs,
    Draws,
    bootstrap,
    explain_gaps,
    intervals,
    paired_draws,
    to_metrics,
)
from trainables.predictions import FILE, Scores, read_predictions
from trainables.systems import is_control, is_few_shot, split_draw

RECORD = "evaluation.json"
COMPARED = ("accuracy", "auroc", "macro_auroc", "macro_f1", "nll", "error_cut")  # beginnings of metrics
MAX_ARMS_ALL_PAIRS = 8  # beyond, arms are compared with the baselines alone
MAX_PROBES = 8  # of frozen encoders, the strongest: what adapted systems are held against


class System(NamedTuple):
    """One row of a comparison: an arm (None for a control, which needs no encoder) and what speaks for it."""

    arm: str | None
    name: str


@dataclass(frozen=True)
class ScoredTrial:
    """One trial whose test predictions are to be judged."""

    trial_key: str
    arm_key: str
    seed: int
    fold: int | None
    predictions: Path
    is_frozen: bool = False  # adapt.method is none: its probes are what adaptation has to beat


@dataclass(frozen=True)
class Cases:
    """The opened labels: `classes` maps image_id → class index, `patients` maps image_id → patient."""

    classes: Mapping[str, int]
    patients: Mapping[str, str]
    class_names: tuple[str, ...] = ()

    def arrays(self, image_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns classes int64 [N] and patients str [N] of these images."""
        classes = np.array([self.classes[image_id] for image_id in image_ids], dtype=np.int64)
        return classes, np.array([self.patients[image_id] for image_id in image_ids], dtype=str)


@dataclass
class EvaluationResult:
    """What the ledger's `evaluated` event carries; `paired` rows come reference first."""

    arms: dict[str, dict[str, float]] = field(default_factory=dict)
    """trial_key → `test/<system>/<metric>` with `_low` and `_high`, on the trial's own test images."""
    pooled: dict[str, dict[str, float]] = field(default_factory=dict)
    """arm_key → the same over all of its folds and seeds, for arms of several trials."""
    paired: list[dict[str, Any]] = field(default_factory=list)
    """arm_a, system_a minus arm_b, system_b (arm None: a control), metric, difference, low, high."""
    controls: dict[str, float] = field(default_factory=dict)
    reference: dict[str, str] | None = None
    """arm and system of the frozen probe with the highest test accuracy."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for JSON."""
        return dict(vars(self))


def evaluate(config: TrialConfig, context: RunContext) -> Metrics:
    """Judges the predictions of one finished run on test, and records when the labels were opened.

    The same predictions are judged once: later calls read the record, `workdir/results/evaluation.json`.

    Raises:
        DataError: no predictions in `workdir/results`.
    """
    predictions = context.workdir / "results" / FILE
    read_predictions(predictions)  # without them the labels stay closed
    path = predictions.with_name(RECORD)
    record = json.loads(path.read_text()) if path.is_file() else {"opened": [], "predictions": None}
    if record["predictions"] != file_sha256(predictions):
        record = {
            "opened": [*record["opened"], datetime.now(UTC).isoformat()],
            "predictions": file_sha256(predictions),
            "metrics": judge_run(config, predictions),
        }
        write_atomically(path, json.dumps(record, indent=1))
    return record["metrics"]


def judge_run(config: TrialConfig, predictions: Path) -> dict[str, float]:
    """Opens the test labels and returns the metrics of one run's systems and controls."""
    dataset = load_dataset(config.data, with_test_labels=True)
    trial = ScoredTrial("run", "run", config.seed, config.data.fold, predictions)
    result = evaluate_arms([trial], open_cases(dataset), class_pairs=same_source_pairs(dataset))
    return result.arms["run"] | result.controls


def open_cases(*datasets: Dataset) -> Cases:
    """Returns labels and patients of the test images of data sets loaded with them; folds are joined."""
    classes: dict[str, int] = {}
    patients: dict[str, str] = {}
    for dataset in datasets:
        test = dataset.indices("test")
        image_ids = [dataset.records[i].image_id for i in test]
        classes |= dict(zip(image_ids, dataset.class_indices(test).tolist(), strict=True))
        patients |= dict(zip(image_ids, dataset.patients(test).tolist(), strict=True))
    return Cases(classes, patients, datasets[0].classes)


def evaluate_arms(
    trials: Sequence[ScoredTrial],
    cases: Cases,
    *,
    class_pairs: ClassPairs | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    first: System | None = None,
) -> EvaluationResult:
    """Judges every trial, every arm, and every difference that a reader will ask for.

    An arm without a prediction for every case is left out of `pooled` and `paired`, with a note.

    Args:
        trials: each `trial_key` once.
        cases: every test image of every fold, opened.
        class_pairs: adds metrics among two classes, see `audit.same_source_pairs`.
        num_draws: bootstrap draws of patients.
        seed: of the draws.
        first: what stood first on val; every system is held against it.
    """
    predictions = {trial.trial_key: scores_on_test(trial, cases) for trial in trials}

    def draw(scores: np.ndarray, image_ids: Sequence[str]) -> Draws:
        classes, patients = cases.arrays(image_ids)
        return bootstrap(scores, classes, patients, seed=seed, num_draws=num_draws, class_pairs=class_pairs)

    result = EvaluationResult()
    order = sorted(cases.classes)
    result.notes += explain_gaps(cases.arrays(order)[0], cases.class_names, split="test")
    pooled = pool(trials, predictions, order, result.notes)
    draws = {system: draw(scores, order) for system, scores in pooled.items()}
    num_trials = Counter(trial.arm_key for trial in trials)
    for trial in trials:
        metrics = result.arms[trial.trial_key] = {}
        for name, scored in stack_draws(predictions[trial.trial_key]).items():
            whole = draws.get(System(trial.arm_key, name)) if num_trials[trial.arm_key] == 1 else None
            is_shown = num_trials[trial.arm_key] == 1 or not is_few_shot(name)  # else over seeds
            if is_shown and not is_control(name):
                values = whole or draw(scored.scores, scored.image_ids.tolist())
                metrics |= to_metrics(f"test/{name}", intervals(values))
    for system, values in draws.items():
        metrics = to_metrics(f"test/{system.name}", intervals(values))
        if system.arm is None:
            result.controls |= metrics
        elif num_trials[system.arm] > 1:
            result.pooled.setdefault(system.arm, {}).update(metrics)
    frozen = {trial.arm_key for trial in trials if trial.is_frozen}
    probes = frozen_probes(draws, frozen)
    if probes:
        result.reference = {"arm": str(probes[0].arm), "system": probes[0].name}
    pairs = [*comparisons(list(draws), frozen, probes), *against(first, list(draws))]
    for one, other in dict.fromkeys(pairs):
        result.paired += paired_rows(one, other, draws)
    return result


def scores_on_test(trial: ScoredTrial, cases: Cases) -> dict[str, Scores]:
    """Returns what each system of a trial says of its test images.

    Raises:
        DataError: an unreadable file, or an image without an opened label.
    """
    predictions = read_predictions(trial.predictions)
    scores = {system: scored for (split, system), scored in predictions.items() if split == "test"}
    for system, scored in scores.items():
        unknown = [image_id for image_id in scored.image_ids.tolist() if image_id not in cases.classes]
        if unknown:
            raise DataError(
                f"{trial.predictions}: {system} scores '{unknown[0]}', whose test label was not opened "
                f"({len(unknown)} such images); evaluate it with the data it was trained on"
            )
    return scores


def stack_draws(predictions: Mapping[str, Scores]) -> dict[str, Scores]:
    """Returns system → scores [N, K]; of a system that was drawn several times [S, N, K]."""
    drawn: dict[str, list[Scores]] = defaultdict(list)
    for name, scored in predictions.items():
        drawn[split_draw(name)[0]].append(scored)
    return {
        system: of_system[0]
        if len(of_system) == 1
        else Scores(of_system[0].image_ids, np.stack([scored.scores for scored in of_system]))
        for system, of_system in drawn.items()
    }


def pool(
    trials: Sequence[ScoredTrial],
    predictions: Mapping[str, Mapping[str, Scores]],
    order: Sequence[str],
    notes: list[str],
) -> dict[System, np.ndarray]:
    """Returns the scores [S, N, K] of every arm's systems and of the controls, cases in `order`.

    A seed whose folds leave a case out does not count; `notes` says so. Few-shot draws count as seeds.
    """
    by_seed: dict[System, dict[tuple[int, int | None], list[Scores]]] = defaultdict(lambda: defaultdict(list))
    arm_of_control: dict[str, str] = {}  # every frozen arm has them; one is enough
    for trial in sorted(trials, key=lambda trial: not trial.is_frozen):
        seed = 0 if trial.is_frozen else trial.seed  # a frozen encoder has no seed, whatever its config says
        for drawn, scored in predictions[trial.trial_key].items():
            name, draw = split_draw(drawn)
            if not is_control(name):
                by_seed[System(trial.arm_key, name)][seed, draw].append(scored)
            elif arm_of_control.setdefault(name, trial.arm_key) == trial.arm_key:
                by_seed[System(None, name)][seed, draw].append(scored)
    pooled: dict[System, np.ndarray] = {}
    for system, seeds in by_seed.items():
        joined = {seed: _join(parts, order) for seed, parts in seeds.items()}
        whole = [scores for scores in joined.values() if scores is not None]
        if len(whole) < len(joined):
            notes.append(
                f"{system.arm or 'control'} {system.name}: {len(joined) - len(whole)} of {len(joined)} seeds "
                f"do not score all {len(order)} test images: left out of pooled values and differences"
            )
        if whole:
            pooled[system] = np.stack(whole)
    return pooled


def _join(parts: Sequence[Scores], order: Sequence[str]) -> np.ndarray | None:
    """Scores [N, K] of all cases from one seed's folds; None if a case is missing."""
    known: dict[str, np.ndarray] = {}
    for image_ids, scores in parts:
        known |= dict(zip(image_ids.tolist(), scores, strict=True))
    if len(known) < sum(len(scored.image_ids) for scored in parts):
        raise DataError(
            "two folds of one seed score the same test image: their splits do not belong together"
        )
    return np.stack([known[image_id] for image_id in order]) if len(known) == len(order) else None


def frozen_probes(draws: Mapping[System, Draws], frozen: set[str]) -> list[System]:
    """Returns the probes of frozen encoders, the highest test accuracy first."""
    probes = [system for system in draws if system.arm in frozen and system.name.startswith("probe_")]
    return sorted(probes, key=lambda system: -draws[system]["accuracy"][0])


def comparisons(
    systems: Sequence[System], frozen: set[str], probes: Sequence[System]
) -> Iterator[tuple[System, System]]:
    """Yields which systems to compare: one minus the other.

    Each adapted system with the strongest frozen probes and, if it is zero-shot, with its frozen self (where
    one encoder is frozen) and the probes of its own arm; adapted systems and frozen probes with the controls;
    up to eight adapted arms with each other. Baselines count as adapted; the probes of the others are held
    against them. Few-shot systems have intervals, and are compared with nothing.
    """
    controls = [system for system in systems if system.arm is None]
    adapted = [
        system
        for system in systems
        if system.arm is not None and system.arm not in frozen and not is_few_shot(system.name)
    ]
    for system in adapted:
        yield from ((system, probe) for probe in probes[:MAX_PROBES])
        if system.name.startswith("zero_shot"):
            own = [other for other in adapted if other.arm == system.arm and other.name.startswith("probe_")]
            self_frozen = [other for other in systems if other.arm in frozen and other.name == system.name]
            yield from ((system, other) for other in (self_frozen if len(self_frozen) == 1 else []) + own)
    yield from ((system, control) for system in [*adapted, *probes[:MAX_PROBES]] for control in controls)
    if len({system.arm for system in adapted}) <= MAX_ARMS_ALL_PAIRS:
        yield from ((one, other) for one, other in combinations(adapted, 2) if one.name == other.name)
        classifiers = [system for system in adapted if system.name.startswith("baseline")]
        adapted_probes = [system for system in adapted if system.name.startswith("probe_")]
        yield from product(adapted_probes, classifiers)


def against(first: System | None, systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Yields every other system of an arm beside one of them, few-shot ones left out."""
    if first is not None and first in systems:
        others = (s for s in systems if s.arm is not None and not is_few_shot(s.name))
        yield from ((system, first) for system in others if system != first)


def paired_rows(one: System, other: System, draws: Mapping[System, Draws]) -> list[dict[str, Any]]:
    """Returns a row per metric in `COMPARED`: one minus the other (an error cut: a share of the other's)."""
    names = {"arm_a": one.arm, "system_a": one.name, "arm_b": other.arm, "system_b": other.name}
    return [
        {
            **names,
            "metric": metric,
            "difference": interval.value,
            "low": None if np.isnan(interval.low) else interval.low,
            "high": None if np.isnan(interval.high) else interval.high,
        }
        for metric, interval in intervals(paired_draws(draws[one], draws[other])).items()
        if metric.startswith(COMPARED)
    ]
