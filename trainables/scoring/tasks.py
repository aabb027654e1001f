"""What differs in the scores between classes that exclude each other and several findings per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from trainables.config import Task
from trainables.data.records import Dataset
from trainables.scoring.finding_metrics import (
    explain_finding_gaps,
    macro_averages,
    metrics_by_finding,
    point_finding_metrics,
)
from trainables.scoring.metric_names import HEADLINE
from trainables.scoring.metrics import ClassPairs, explain_gaps, point_metrics, weighted_metrics
from trainables.scoring.sources import same_source_pairs


class SystemMetrics(NamedTuple):
    """The metrics of one system in each of R draws: of all images, and of each of K findings."""

    overall: dict[str, np.ndarray]  # metric → [R]
    by_finding: dict[str, np.ndarray]  # metric → [R, K]; empty for classes that exclude each other


class Weighted(Protocol):
    """Computes metrics of scores [N, K] with image weights [N, R]."""

    def __call__(
        self,
        scores: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        *,
        class_pairs: ClassPairs | None,
        with_ece: bool,
    ) -> SystemMetrics:
        """Returns the metrics in each draw. For the arguments see `metrics.weighted_metrics`."""
        ...


class ExplainGaps(Protocol):
    """Explains which metrics of a split are undefined."""

    def __call__(self, targets: np.ndarray, names: Sequence[str], /, *, split: str) -> list[str]:
        """Returns a sentence for each class or finding whose metrics are undefined."""
        ...


@dataclass(frozen=True)
class TaskScores:
    """How the scores [N, K] of a task are checked and measured against its targets (`Dataset.targets`).

    Attributes:
        headline: the metric that orders systems, see `metric_names.HEADLINE`.
        weighted: the metrics in each draw.
        point_metrics: (scores, targets) → each defined metric.
        explain_gaps: sentences about undefined metrics.
        class_pairs: data set → the pairs of classes for which metrics are added.
        are_probabilities: whether finite scores that are at least 0 are probabilities of this task.
        probabilities: what makes scores probabilities, for messages.
    """

    headline: str
    weighted: Weighted
    point_metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    explain_gaps: ExplainGaps
    class_pairs: Callable[[Dataset], ClassPairs]
    are_probabilities: Callable[[np.ndarray], bool]
    probabilities: str


def _of_classes(
    scores: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    class_pairs: ClassPairs | None,
    with_ece: bool,
) -> SystemMetrics:
    values = weighted_metrics(scores, targets, weights, class_pairs=class_pairs, with_ece=with_ece)
    return SystemMetrics(values, {})


def _of_findings(
    scores: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    class_pairs: ClassPairs | None,
    with_ece: bool,
) -> SystemMetrics:
    assert not class_pairs, "findings do not exclude each other"
    by_finding = metrics_by_finding(scores, targets, weights, with_ece=with_ece)
    return SystemMetrics(macro_averages(by_finding, targets), by_finding)


def _no_pairs(dataset: Dataset) -> ClassPairs:
    del dataset
    return {}


def _rows_sum_to_one(scores: np.ndarray) -> bool:
    return bool(np.abs(scores.sum(axis=1) - 1).max(initial=0) <= 1e-6)


def _are_at_most_one(scores: np.ndarray) -> bool:
    return bool(scores.max(initial=0) <= 1)


TASKS: Mapping[Task, TaskScores] = {
    "multiclass": TaskScores(
        HEADLINE["multiclass"],
        _of_classes,
        point_metrics,
        explain_gaps,
        same_source_pairs,
        _rows_sum_to_one,
        "finite, at least 0, each row sums to 1",
    ),
    "multilabel": TaskScores(
        HEADLINE["multilabel"],
        _of_findings,
        point_finding_metrics,
        explain_finding_gaps,
        _no_pairs,
        _are_at_most_one,
        "finite, from 0 to 1",
    ),
}


def task_of(targets: np.ndarray) -> TaskScores:
    """Returns the task of targets: int64 [N] are classes, int8 [N, K] are labels of findings."""
    return TASKS["multiclass" if targets.ndim == 1 else "multilabel"]
