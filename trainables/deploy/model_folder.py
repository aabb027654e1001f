"""Writes the folder of a model: safetensors and JSON, a model card, golden phantoms, a manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.artifacts import atomic_directory
from trainables.config import TrialConfig, science
from trainables.data.records import Dataset
from trainables.deploy import golden
from trainables.deploy.engine import ADAPTER, CLASSIFIER, Engine
from trainables.deploy.facts import FILE, SCHEMA_VERSION, ModelFacts, SystemFacts, TrainingData
from trainables.deploy.model_card import model_card
from trainables.deploy.reference import FILE as REFERENCE_FILE
from trainables.deploy.reference import Reference, write_reference
from trainables.deploy.systems import ZERO_SHOT_FILE, System, write_systems
from trainables.deploy.tasks import TASKS
from trainables.deploy.thresholds import choose_thresholds
from trainables.scoring.metric_names import read_key

CALIBRATION_FILE, THRESHOLDS_FILE, CARD_FILE = "calibration.json", "thresholds.json", "README.md"
FILES = {
    FILE: "task, classes, settings, data, systems and their metrics on val",
    ADAPTER: "trained weights: PEFT's files, and other tensors in `extra.safetensors`",
    CLASSIFIER: "all weights of a fine-tuned classifier",
    "probe_pooled.safetensors": "linear classifier on pooled features",
    "probe_joint.safetensors": "linear classifier on joint features",
    ZERO_SHOT_FILE: "mean embeddings of the prompts of each class",
    CALIBRATION_FILE: "a temperature, or Platt's line for each finding, by system",
    THRESHOLDS_FILE: "Youden's thresholds and those of a sensitivity of .95, by system",
    REFERENCE_FILE: "mean and covariance of the embeddings of train images",
    golden.FILE: "16 synthetic images and their raw scores, to check a copy",
    "manifest.json": "SHA-256 of every file",
}
LIMITS = (
    "For research only. This is no medical device, and no result may guide the care of a patient.",
    "Metrics hold for images like those of val. Other scanners, views, ages and diseases change them.",
    "A label is a claim about the whole image. The model does not say where a finding is.",
)
NO_REFERENCE = "The model cannot say whether an image is unlike the training images."


@dataclass(frozen=True)
class ModelParts:
    """What a trial has computed that a model needs.

    Attributes:
        systems: name → system with its facts. Metrics are added to the facts.
        val_scores: name → raw scores on val of the fit on train alone, float64 [N, K].
        weights: see `ModelFacts`.
        fingerprint: see `ModelFacts`.
        trained: files or folders of trained weights → their names in the model.
        reference: the distribution of the training images, if it is known.
    """

    config: TrialConfig
    dataset: Dataset
    engine: Engine
    systems: Mapping[str, tuple[System, SystemFacts]]
    val_scores: Mapping[str, np.ndarray]
    weights: dict[str, Any]
    fingerprint: str
    trained: Mapping[Path, str]
    reference: Reference | None


def write_model(folder: Path, parts: ModelParts, metrics: Mapping[str, float]) -> None:
    """Writes a model folder atomically. `metrics` are those of the trial, `val/<system>/<metric>`."""
    facts = model_facts(parts, metrics)
    systems = {name: system for name, (system, _) in parts.systems.items()}
    task, dataset = TASKS[facts.task], parts.dataset
    targets = dataset.targets(dataset.indices("val"))
    labels = task.labels(targets, len(facts.classes))
    calibrations = {name: task.calibrate(parts.val_scores[name], targets) for name in systems}
    thresholds = {
        name: choose_thresholds(calibrations[name].calibrate(parts.val_scores[name]), labels, facts.classes)
        for name in systems
    }
    with atomic_directory(folder) as aside:
        for source, name in parts.trained.items():
            _link(source, aside / name)
        write_systems(systems, facts.classes, aside)
        if parts.reference is not None:
            write_reference(parts.reference, aside)
        golden.write_golden(parts.engine, systems, aside)
        _write_json(aside / FILE, facts.model_dump(mode="json"))
        _write_json(
            aside / CALIBRATION_FILE, {name: each.model_dump() for name, each in calibrations.items()}
        )
        _write_json(aside / THRESHOLDS_FILE, {name: each.model_dump() for name, each in thresholds.items()})
        is_there = {name: (aside / name).exists() or name == "manifest.json" for name in FILES}
        card = model_card(facts, {name: what for name, what in FILES.items() if is_there[name]})
        (aside / CARD_FILE).write_text(card, encoding="utf-8")


def model_facts(parts: ModelParts, metrics: Mapping[str, float]) -> ModelFacts:
    """Returns the facts of a model, for `model.json`."""
    dataset, config = parts.dataset, parts.config
    systems = {
        name: facts.model_copy(update={"metrics": _metrics_of(name, metrics)})
        for name, (_, facts) in parts.systems.items()
    }
    return ModelFacts(
        schema_version=SCHEMA_VERSION,
        task=dataset.task,
        classes=dataset.classes,
        trial=science(config),
        weights=parts.weights,
        fingerprint=parts.fingerprint,
        preprocessing=parts.engine.preprocessing,
        words=dataset.words.fingerprint if config.reads_words else None,
        systems=systems,
        default_system=_best(systems),
        data=training_data(dataset),
        limits=LIMITS if parts.reference is not None else (*LIMITS, NO_REFERENCE),
    )


def training_data(dataset: Dataset) -> TrainingData:
    """Returns the counts of a data set. The labels of test are withheld, so they are not counted."""
    indices = {split: dataset.indices(split) for split in ("train", "val", "test")}
    patients = {split: len(set(dataset.patients(rows).tolist())) for split, rows in indices.items()}
    positive = {
        split: dict(
            zip(dataset.classes, (dataset.label_matrix(indices[split]) == 1).sum(0).tolist(), strict=True)
        )
        for split in ("train", "val")
    }
    return TrainingData(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        num_images={split: len(rows) for split, rows in indices.items()},
        num_patients=patients if dataset.has_patients else None,
        num_positive=positive,
        notes=dataset.notes,
    )


def _metrics_of(system: str, metrics: Mapping[str, float]) -> dict[str, float]:
    keys = {key: read_key(key) for key in metrics}
    return {
        metric: float(metrics[key])
        for key, (split, name, metric) in keys.items()
        if split == "val" and name == system
    }


def _best(systems: Mapping[str, SystemFacts]) -> str:
    """Returns the system with the highest AUROC on val. Prompts seen in training prove nothing."""
    unseen = [name for name in systems if name != "zero_shot_training"] or list(systems)
    return max(unseen, key=lambda name: systems[name].metrics.get("macro_auroc", 0.0))


def _link(source: Path, target: Path) -> None:
    """Makes a file or a folder appear at `target` without a copy, if both are on one disk."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=lambda a, b: _link(Path(a), Path(b)))
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1))
