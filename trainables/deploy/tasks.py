"""What differs in a model between classes that exclude each other and several findings per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from trainables.config import Task
from trainables.data.records import NO_FINDING
from trainables.deploy.calibration import Calibration, fit_platt, fit_temperature
from trainables.scoring.finding_logistic import FindingClassifier
from trainables.scoring.logistic import LinearClassifier


@dataclass(frozen=True)
class TaskModel:
    """How the models of a task are calibrated and read.

    Attributes:
        classifier: the linear classifier of a probe.
        calibrate: (raw scores on val, targets) → the calibration.
        labels: (targets, K) → labels int8 [N, K].
        present: (calibrated probabilities [K], class → threshold or None) → the classes of one image.
    """

    classifier: type[LinearClassifier]
    calibrate: Callable[[np.ndarray, np.ndarray], Calibration]
    labels: Callable[[np.ndarray, int], np.ndarray]
    present: Callable[[np.ndarray, Mapping[str, float | None]], tuple[str, ...]]


def _one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.int8)[classes]


def _as_given(labels: np.ndarray, num_classes: int) -> np.ndarray:
    del num_classes
    return labels


def _most_probable(probabilities: np.ndarray, thresholds: Mapping[str, float | None]) -> tuple[str, ...]:
    return (list(thresholds)[int(np.argmax(probabilities))],)


def _at_threshold(probabilities: np.ndarray, thresholds: Mapping[str, float | None]) -> tuple[str, ...]:
    """Returns the findings at or above their threshold, or `NO_FINDING` if there are none."""
    found = tuple(
        name
        for name, p, threshold in zip(thresholds, probabilities, thresholds.values(), strict=True)
        if threshold is not None and p >= threshold and name != NO_FINDING
    )
    return found or (NO_FINDING,)


TASKS: Mapping[Task, TaskModel] = {
    "multiclass": TaskModel(LinearClassifier, fit_temperature, _one_hot, _most_probable),
    "multilabel": TaskModel(FindingClassifier, fit_platt, _as_given, _at_threshold),
}
