"""What differs in the systems between classes that exclude each other and several findings per image.

`tasks` has what differs in the metrics. This module stands above it, because probes are chosen by metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainables.config import ProbeConfig, Split, Task
from trainables.data.records import NO_FINDING, Dataset
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.few_shot import check_shots, few_shot_predictions
from trainables.scoring.finding_probe import fit_finding_path
from trainables.scoring.finding_shots import check_finding_shots, finding_shot_predictions
from trainables.scoring.linear_probe import Examples, ProbePath, fit_path
from trainables.scoring.predictions import Scores
from trainables.scoring.zero_shot import finding_scores, pair_scores, zero_shot_scores

Prompts = Sequence[np.ndarray]
"""The embeddings [n_k, D] of the prompts of each class."""


@dataclass(frozen=True)
class TaskSystems:
    """How the systems of a task get their scores [N, K].

    Attributes:
        fit_path: (train, val, names of the classes, settings) → the probe.
        zero_shot: (image embeddings [N, D], prompts, contraries or None, logit scale) → scores.
        few_shot: (embeddings, data set, settings) → the predictions of few-shot probes on val and test.
        check_shots: raises `DataError` if a data set has too few images for the shots.
        prior: targets of the images seen → the score of each class without an image, [K].
    """

    fit_path: Callable[[Examples, Examples, Sequence[str], ProbeConfig], ProbePath]
    zero_shot: Callable[[np.ndarray, Prompts, Prompts | None, float], np.ndarray]
    few_shot: Callable[[EmbeddingTable, Dataset, ProbeConfig], dict[tuple[Split, str], Scores]]
    check_shots: Callable[[Dataset, ProbeConfig], None]
    prior: Callable[[np.ndarray, Sequence[str]], np.ndarray]


def _fit_classes(train: Examples, val: Examples, names: Sequence[str], config: ProbeConfig) -> ProbePath:
    return fit_path(train, val, class_names=names, l2=config.l2)


def _fit_findings(train: Examples, val: Examples, names: Sequence[str], config: ProbeConfig) -> ProbePath:
    macro = [k for k, name in enumerate(names) if name != NO_FINDING]
    each = {"l2": config.l2, "per_finding": config.per_finding}
    return fit_finding_path(train, val, class_names=names, macro=macro, **each)


def _ask_for_classes(
    joint: np.ndarray, prompts: Prompts, contrary: Prompts | None, logit_scale: float
) -> np.ndarray:
    if contrary is None:
        return zero_shot_scores(joint, prompts, logit_scale=logit_scale)
    return pair_scores(joint, prompts, contrary, logit_scale=logit_scale)


def _ask_for_findings(
    joint: np.ndarray, prompts: Prompts, contrary: Prompts | None, logit_scale: float
) -> np.ndarray:
    assert contrary is not None, "prompts of findings have contraries"
    return finding_scores(joint, prompts, contrary, logit_scale=logit_scale)


def _class_frequencies(classes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return np.bincount(classes, minlength=len(names)) / len(classes)


def _finding_frequencies(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Returns the share of positives among the known labels, smoothed as in `finding_logistic`."""
    del names
    positives, known = (labels == 1).sum(0), (labels >= 0).sum(0)
    return (positives + 1) / (known + 2)


SYSTEMS: Mapping[Task, TaskSystems] = {
    "multiclass": TaskSystems(
        fit_path=_fit_classes,
        zero_shot=_ask_for_classes,
        few_shot=few_shot_predictions,
        check_shots=check_shots,
        prior=_class_frequencies,
    ),
    "multilabel": TaskSystems(
        fit_path=_fit_findings,
        zero_shot=_ask_for_findings,
        few_shot=finding_shot_predictions,
        check_shots=check_finding_shots,
        prior=_finding_frequencies,
    ),
}
