"""Few-shot probes of findings: for each finding, a probe on k positive and k negative images.

For each finding, the draw puts the patients of train into a random order. It takes a positive and a negative
in turn, each from the first patient that this finding has not used. If no such patient is left, it takes
another image of a used patient. So the shots of a finding are of different patients as far as possible, and
a draw of more shots starts with the draw of fewer shots. Findings are drawn independently, so they may share
patients. An unknown label is never a shot. Everything else is as in `few_shot`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np

from trainables.config import ProbeConfig, Split
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.few_shot import fit_shots, predict_draws
from trainables.scoring.finding_logistic import FindingClassifier
from trainables.scoring.finding_metrics import is_defined
from trainables.scoring.predictions import Scores

logger = logging.getLogger(__name__)


def finding_shot_predictions(
    table: EmbeddingTable, dataset: Dataset, config: ProbeConfig, splits: Sequence[Split] = ("val", "test")
) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions for each number of shots, each draw and each kind of features.

    A finding without positives or without negatives in train has the score 0.5, with a warning.

    Raises:
        DataError: a finding has too few images; see `draw_finding_shots`.
    """
    is_drawn = is_defined(dataset.label_matrix(dataset.indices("train")))
    for k in np.flatnonzero(~is_drawn).tolist() if config.shots else []:
        logger.warning(
            "split 'train' has no positives or no negatives for finding '%s', so its few-shot scores are 0.5",
            dataset.classes[k],
        )
    fit = partial(fit_finding_shots, is_drawn=is_drawn)
    return predict_draws(table, dataset, config, splits, draw_shots=draw_finding_shots, fit_shots=fit)


def check_finding_shots(dataset: Dataset, config: ProbeConfig) -> None:
    """Raises `DataError` if the largest number of shots cannot be drawn; see `draw_finding_shots`."""
    draw_finding_shots(dataset, max(config.shots), seed=config.shot_seed, draw=0)  # all draws need as many


def draw_finding_shots(dataset: Dataset, num_shots: int, *, seed: int, draw: int) -> np.ndarray:
    """Returns positions in `dataset.records` of k negatives and k positives, int64 [k, 2, K'].

    K' counts the findings with positives and negatives in train, in the order of the classes.

    Raises:
        DataError: a finding has positives, but fewer than k of them, or fewer than k negatives.
    """
    train = dataset.indices("train")
    labels = dataset.label_matrix(train)
    patients = np.unique(dataset.patients(train), return_inverse=True)[1]
    drawn: list[np.ndarray] = []
    for k in np.flatnonzero(is_defined(labels)).tolist():
        counts = [int((labels[:, k] == kind).sum()) for kind in (0, 1)]
        if min(counts) < num_shots:
            kind = ("negatives", "positives")[int(np.argmin(counts))]
            raise DataError(
                f"probe.shots={num_shots}: the number of {kind} of finding '{dataset.classes[k]}' in split "
                f"'train' is {min(counts)}; use {min(counts)} or fewer"
            )
        rng = counter_rng("finding_shots", seed, draw, k)
        place = rng.permutation(int(patients.max()) + 1)[patients]
        order = np.lexsort((rng.random(len(train)), place))  # by patient; images of a patient are shuffled
        drawn.append(train[_take(order, labels[:, k], patients, num_shots)])
    return np.stack(drawn, axis=2)


def _take(order: np.ndarray, labels: np.ndarray, patients: np.ndarray, num_shots: int) -> np.ndarray:
    """Returns k negatives and k positives among images in this order, int64 [k, 2]."""
    shots = np.empty((num_shots, 2), np.int64)
    candidates = [order[labels[order] == kind].tolist() for kind in (0, 1)]
    used, taken = set[int](), set[int]()
    for shot, kind in product(range(num_shots), (1, 0)):  # positives first, because they are rarer
        fresh = (image for image in candidates[kind] if int(patients[image]) not in taken)
        if (image := next(fresh, None)) is None:
            image = next(image for image in candidates[kind] if image not in used)
        shots[shot, kind] = image
        used.add(image)
        taken.add(int(patients[image]))
    return shots


def fit_finding_shots(
    shots: np.ndarray, /, *, l2: float | None = None, is_drawn: np.ndarray | None = None
) -> FindingClassifier:
    """Returns a classifier with one binary probe for each finding, fitted on shots [k, 2, K', D].

    If `l2` is None, the held-out shots of each finding choose its strength.

    Args:
        shots: embeddings of the negatives and the positives of K' findings.
        l2: a fixed λ.
        is_drawn: which of K findings the shots belong to, bool [K]. The others get weights of 0.
    """
    is_drawn = np.ones(shots.shape[2], bool) if is_drawn is None else is_drawn
    weights, bias = np.zeros((shots.shape[-1], len(is_drawn))), np.zeros(len(is_drawn))
    for place, k in enumerate(np.flatnonzero(is_drawn)):
        probe = fit_shots(shots[:, :, place], l2=l2)
        weights[:, k] = probe.weights[:, 1] - probe.weights[:, 0]  # σ of the difference is the softmax of two
        bias[k] = probe.bias[1] - probe.bias[0]
    return FindingClassifier(weights, bias)
