"""Opens the test labels, once, and says how every arm does: with intervals, and paired against the frozen probe.

A trial scores the test part of one fold with one seed. Per seed the folds are joined, so that every case is scored
once; over seeds every metric is averaged; patients are drawn once for all seeds together. Differences are taken on
identical cases and identical draws. Nothing is chosen here but the frozen probe to beat: it is the strongest on
test, which can only shrink a gain.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.artifacts import write_atomically
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
    intervals,
    paired_draws,
    to_metrics,
)
from trainables.predictions import FILE, Scores, read_predictions

RECORD = "evaluation.json"
MAX_ARMS_ALL_PAIRS = 8  # beyond, arms are compared with the baselines alone


class System(NamedTuple):
    """One row of a comparison: an arm (None for a control, which needs no encoder) and what speaks for it."""

    arm: str | None
    name: str


@dataclass(frozen=True)
class TestedTrial:
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
    """Judges the predictions of one finished run on test. Labels are opened once; later calls read the record.

    Raises:
        DataError: no predictions in `workdir/results`.
    """
    record = context.workdir / "results" / RECORD
    if not record.is_file():
        dataset = load_dataset(config.data, with_test_labels=True)
        trial = TestedTrial(
            trial_key="this run",
            arm_key="this run",
            seed=config.seed,
            fold=config.data.fold,
            predictions=context.workdir / "results" / FILE,
            is_frozen=config.adapt.method == "none",
        )
        result = evaluate_arms([trial], open_cases(dataset), class_pairs=same_source_pairs(dataset))
        opened = {"opened": datetime.now(UTC).isoformat(), **result.to_dict()}
        write_atomically(record, json.dumps(opened, indent=1))
    values = json.loads(record.read_text())
    return {**values["arms"]["this run"], **values["controls"]}


def open_cases(*datasets: Dataset) -> Cases:
    """Returns labels and patients of the test images of data sets loaded with them; folds are joined."""
    classes: dict[str, int] = {}
    patients: dict[str, str] = {}
    for dataset in datasets:
        test = dataset.indices("test")
        image_ids = [dataset.records[i].image_id for i in test]
        classes |= dict(zip(image_ids, dataset.class_indices(test).tolist(), strict=True))
        patients |= dict(zip(image_ids, dataset.patients(test).tolist(), strict=True))
    return Cases(classes, patients)


def evaluate_arms(
    trials: Sequence[TestedTrial],
    cases: Cases,
    *,
    class_pairs: ClassPairs | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> EvaluationResult:
    """Judges every trial, every arm, and every difference that a reader will ask for.

    An arm without a prediction for every case is left out of `pooled` and `paired`, with a note.

    Args:
        trials: each `trial_key` once.
        cases: every test image of every fold, opened.
        class_pairs: adds metrics among two classes, see `audit.same_source_pairs`.
        num_draws: bootstrap draws of patients.
        seed: of the draws.
    """
    predictions = {trial.trial_key: test_scores(trial, cases) for trial in trials}

    def draw(scores: np.ndarray, image_ids: Sequence[str]) -> Draws:
        classes, patients = cases.arrays(image_ids)
        return bootstrap(scores, classes, patients, seed=seed, num_draws=num_draws, class_pairs=class_pairs)

    result = EvaluationResult()
    order = sorted(cases.classes)
    draws = {
        system: draw(scores, order)
        for system, scores in pool(trials, predictions, order, result.notes).items()
    }
    for trial in trials:
        result.arms[trial.trial_key] = {}
        for name, scored in predictions[trial.trial_key].items():
            if not is_control(name):
                own = draw(scored.scores, scored.image_ids.tolist())
                result.arms[trial.trial_key] |= to_metrics(f"test/{name}", intervals(own))
    for system, values in draws.items():
        metrics = to_metrics(f"test/{system.name}", intervals(values))
        place = result.controls if system.arm is None else result.pooled.setdefault(system.arm, {})
        place |= metrics
    frozen = {trial.arm_key for trial in trials if trial.is_frozen}
    probes = frozen_probes(draws, frozen)
    if probes:
        result.reference = {"arm": str(probes[0].arm), "system": probes[0].name}
    for one, other in comparisons(list(draws), frozen, probes):
        result.paired += paired_rows(one, other, draws)
    return result


def test_scores(trial: TestedTrial, cases: Cases) -> dict[str, Scores]:
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


def pool(
    trials: Sequence[TestedTrial],
    predictions: Mapping[str, Mapping[str, Scores]],
    order: Sequence[str],
    notes: list[str],
) -> dict[System, np.ndarray]:
    """Returns the scores [S, N, K] of every arm's systems and of the controls, cases in `order`.

    A seed whose folds leave a case out does not count; `notes` says so.
    """
    by_seed: dict[System, dict[int, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for trial in sorted(trials, key=lambda trial: not trial.is_frozen):
        for name, scored in predictions[trial.trial_key].items():
            by_seed[System(None if is_control(name) else trial.arm_key, name)][trial.seed].append(scored)
    pooled: dict[System, np.ndarray] = {}
    for system, seeds in by_seed.items():
        joined = {seed: _join(parts, order) for seed, parts in seeds.items()}
        whole = [scores for scores in joined.values() if scores is not None]
        if len(whole) < len(joined):
            notes.append(
                f"{system.arm or 'control'} {system.name}: {len(joined) - len(whole)} of {len(joined)} seeds do not "
                f"score all {len(order)} test images, and are left out of pooled values and differences"
            )
        if whole:
            # Controls stand in every frozen trial and are the same there: one is enough.
            pooled[system] = np.stack(whole[:1] if system.arm is None else whole)
    return pooled


def _join(parts: Sequence[Scores], order: Sequence[str]) -> np.ndarray | None:
    """Scores [N, K] of all cases from one seed's folds; None if a case is missing."""
    known: dict[str, np.ndarray] = {}
    for image_ids, scores in parts:
        known |= dict(zip(image_ids.tolist(), scores, strict=True))
    return np.stack([known[image_id] for image_id in order]) if len(known) == len(order) else None


def frozen_probes(draws: Mapping[System, Draws], frozen: set[str]) -> list[System]:
    """Returns the probes of frozen encoders, the highest test accuracy first."""
    probes = [system for system in draws if system.arm in frozen and system.name.startswith("probe_")]
    return sorted(probes, key=lambda system: -draws[system]["accuracy"][0])


def comparisons(
    systems: Sequence[System], frozen: set[str], probes: Sequence[System]
) -> Iterator[tuple[System, System]]:
    """Yields which systems to compare: one minus the other.

    Each adapted system with every frozen probe (strongest first) and, for zero-shot, with its frozen self and with
    the probes of its own arm; each of them and each frozen probe with the controls; up to eight adapted arms with
    each other.
    """
    controls = [system for system in systems if system.arm is None]
    adapted = [system for system in systems if system.arm is not None and system.arm not in frozen]
    for system in adapted:
        yield from ((system, probe) for probe in probes)
        if system.name.startswith("zero_shot"):
            own = [other for other in adapted if other.arm == system.arm and other.name.startswith("probe_")]
            self_frozen = [other for other in systems if other.arm in frozen and other.name == system.name]
            yield from ((system, other) for other in self_frozen + own)
    yield from ((system, control) for system in [*adapted, *probes] for control in controls)
    if len({system.arm for system in adapted}) <= MAX_ARMS_ALL_PAIRS:
        yield from ((one, other) for one, other in combinations(adapted, 2) if one.name == other.name)


def paired_rows(one: System, other: System, draws: Mapping[System, Draws]) -> list[dict[str, Any]]:
    """Returns a row per metric: one minus the other (an error cut: its share of the other's error)."""
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
    ]


def is_control(system: str) -> bool:
    """Says whether a system is a control, which sees no encoder."""
    return system.startswith("control_")
