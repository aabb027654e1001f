"""Computes the metrics of every system on val, and writes the table that goes with them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.records import Dataset
from trainables.scoring.bootstrap import Bootstrap, intervals, over_draws, to_metrics
from trainables.scoring.finding_table import FILE as FINDINGS_FILE
from trainables.scoring.finding_table import finding_rows, write_findings
from trainables.scoring.metric_names import split_draw
from trainables.scoring.metrics import confusion_matrix
from trainables.scoring.predictions import Predictions
from trainables.scoring.tasks import TASKS

logger = logging.getLogger(__name__)
CONFUSION_FILE = "confusion.json"


def judge(predictions: Predictions, dataset: Dataset, folder: Path) -> dict[str, float]:
    """Returns the metrics of each system on val, with 95 % intervals by patient.

    For a system with several draws, the value is the mean over draws, with Student's interval over draws.
    Writes to `folder` what is not a metric of the whole: the confusion matrices, or the table of findings.
    """
    val, task = dataset.indices("val"), TASKS[dataset.task]
    targets = dataset.targets(val)
    bootstrap = Bootstrap(targets, dataset.patients(val))
    for sentence in task.explain_gaps(targets, dataset.classes, split="val"):
        logger.warning(sentence)
    metrics: dict[str, float] = {}
    draws: dict[str, list[dict[str, float]]] = {}
    of_findings: list[dict[str, Any]] = []
    for (split, name), predicted in predictions.items():
        system, draw = split_draw(name)
        if split == "val" and draw is None:
            found = bootstrap.draws(predicted.scores)
            metrics |= to_metrics("val", system, intervals(found.overall))
            named = {"split": split, "system": system}
            of_findings += finding_rows(targets, dataset.classes, found.by_finding, named)
        elif split == "val":
            draws.setdefault(system, []).append(task.point_metrics(predicted.scores, targets))
    for system, values in draws.items():
        metrics |= to_metrics("val", system, over_draws(values, dataset.task))
    if of_findings:
        write_findings(folder / FINDINGS_FILE, of_findings)
    else:
        write_confusion(folder / CONFUSION_FILE, predictions, dataset)
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
