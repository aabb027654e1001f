"""Computes the metrics of every system on val, and writes the table that goes with them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from trainables.data.records import Dataset
from trainables.scoring.bootstrap import Bootstrap, over_draws, to_metrics
from trainables.scoring.metric_names import split_draw
from trainables.scoring.metrics import confusion_matrix, explain_gaps, point_metrics
from trainables.scoring.predictions import Predictions

logger = logging.getLogger(__name__)
CONFUSION_FILE = "confusion.json"


def judge(predictions: Predictions, dataset: Dataset) -> dict[str, float]:
    """Returns the metrics of each system on val, with 95 % intervals by patient.

    For a system with several draws, the value is the mean over draws, with Student's interval over draws.
    """
    val = dataset.indices("val")
    classes = dataset.class_indices(val)
    bootstrap = Bootstrap(classes, dataset.patients(val))
    for sentence in explain_gaps(classes, dataset.classes, split="val"):
        logger.warning(sentence)
    metrics: dict[str, float] = {}
    draws: dict[str, list[dict[str, float]]] = {}
    for (split, name), predicted in predictions.items():
        system, draw = split_draw(name)
        if split == "val" and draw is None:
            metrics |= to_metrics("val", system, bootstrap.intervals(predicted.scores))
        elif split == "val":
            draws.setdefault(system, []).append(point_metrics(predicted.scores, classes))
    for system, values in draws.items():
        metrics |= to_metrics("val", system, over_draws(values))
    return metrics


def write_confusion(path: Path, predictions: Predictions, dataset: Dataset) -> None:
    """Writes the classes and the confusion matrix on val of each system, as JSON. Leaves out draws."""
    classes = dataset.class_indices(dataset.indices("val"))
    confusion = {
        system: {
            "classes": list(dataset.classes),
            "val": confusion_matrix(np.asarray(scores.scores), classes).tolist(),
        }
        for (split, system), scores in predictions.items()
        if split == "val" and split_draw(system)[1] is None
    }
    path.write_text(json.dumps(confusion, indent=1))
