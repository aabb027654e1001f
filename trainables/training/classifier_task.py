"""What differs in a baseline between classes that exclude each other and several findings per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import Task

MAX_POSITIVE_WEIGHT = 100.0
"""Limit of the weight of a rare finding's positives, so that a handful of images cannot rule the loss."""


@dataclass(frozen=True)
class ClassifierTask:
    """How the logits [B, K] of a classifier are trained and read.

    Attributes:
        weights: (train targets, K) → the weights that balance classes, or positives with negatives, [K].
        shares: (targets of a batch, weights [K]) → the share of each term in the loss of the batch.
        loss: (logits, targets, shares) of some images → their part of the loss of the batch.
        probabilities: logits → probabilities [B, K].
    """

    weights: Callable[[np.ndarray, int], np.ndarray]
    shares: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]


def _balance_classes(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns N / (K n_k), which gives every class the same total weight."""
    counts = np.bincount(classes, minlength=num_classes)
    return counts.sum() / (num_classes * np.maximum(counts, 1))


def _balance_findings(labels: np.ndarray, num_findings: int) -> np.ndarray:
    """Returns negatives / positives of each finding, at most `MAX_POSITIVE_WEIGHT`."""
    del num_findings
    positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
    return np.minimum(negatives / np.maximum(positives, 1), MAX_POSITIVE_WEIGHT)


def _share_of_images(classes: Tensor, weights: Tensor) -> Tensor:
    of_image = weights[classes]
    return of_image / of_image.sum()


def _share_of_labels(labels: Tensor, weights: Tensor) -> Tensor:
    """Returns the weight of each label, divided by the number of known labels, [B, K]. Unknown labels: 0."""
    is_known = labels >= 0
    return torch.where(labels == 1, weights, is_known.to(weights.dtype)) / is_known.sum().clamp(min=1)


def _cross_entropy(logits: Tensor, classes: Tensor, shares: Tensor) -> Tensor:
    return shares @ F.cross_entropy(logits, classes, reduction="none")


def _binary_cross_entropy(logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    is_positive = (labels == 1).to(logits.dtype)
    return (shares * F.binary_cross_entropy_with_logits(logits, is_positive, reduction="none")).sum()


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


CLASSIFIER_TASKS: Mapping[Task, ClassifierTask] = {
    "multiclass": ClassifierTask(_balance_classes, _share_of_images, _cross_entropy, _softmax),
    "multilabel": ClassifierTask(_balance_findings, _share_of_labels, _binary_cross_entropy, torch.sigmoid),
}
