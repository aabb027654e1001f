"""Metrics and bootstrap as their definitions read: rows repeated, pairs compared one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from sklearn import metrics as sk

from trainables.scoring.bootstrap import Bootstrap, intervals, paired_draws

NUM_BINS = 15


def tied_cases(num_images: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, classes of three and patients of these images."""
    rng = np.random.default_rng(0)
    classes = rng.choice(3, size=num_images, p=(0.2, 0.5, 0.3))
    logits = np.round(rng.normal(size=(num_images, 3)), 1) + 1.5 * np.eye(3)[classes]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    patients = np.array([f"p{i}" for i in rng.integers(60, size=num_images)])
    return np.round(scores, 2) / np.round(scores, 2).sum(1, keepdims=True), classes, patients


def plain_metrics(scores: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Returns the metrics of rows without weights, from their definitions."""
    said, present = scores.argmax(1), np.unique(classes)
    of_class = scores[np.arange(len(classes)), classes]
    return {
        "accuracy": float((said == classes).mean()),
        "balanced_accuracy": float(np.mean([(said[classes == k] == k).mean() for k in present])),
        "macro_f1": sk.f1_score(classes, said, average="macro", labels=present, zero_division=0),
        "macro_auroc": float(np.mean([plain_auroc(scores[:, k], classes == k) for k in present])),
        "nll": float(-np.log(of_class).mean()),
        "brier": float(((scores - np.eye(scores.shape[1])[classes]) ** 2).sum(1).mean()),
        "ece": plain_calibration_error(scores.max(1), said == classes),
    } | {
        f"auroc_{a}_vs_{b}": plain_auroc(
            scores[among, b] / (scores[among, a] + scores[among, b]), classes[among] == b
        )
        for a, b in combinations(range(3), 2)
        if (among := np.isin(classes, (a, b))).any()
    }


def plain_auroc(values: np.ndarray, is_positive: np.ndarray) -> float:
    """Returns the share of pairs in which the positive is above the negative, ties for a half."""
    positive, negative = values[is_positive][:, None], values[~is_positive]
    return float(((positive > negative) + (positive == negative) / 2).mean())


def plain_calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Returns the ECE over bins of equal mass; rows of equal confidence share a bin."""
    bins: dict[int, float] = {}
    for value in np.unique(confidence):
        rows = confidence == value
        middle = ((confidence < value).sum() + rows.sum() / 2) / len(confidence)
        place = min(int(middle * NUM_BINS), NUM_BINS - 1)
        bins[place] = bins.get(place, 0.0) + float((value - is_right[rows]).sum())
    return sum(abs(gap) for gap in bins.values()) / len(confidence)


def resampled(patients: np.ndarray, *, seed: int, num_draws: int) -> Iterator[np.ndarray]:
    """Yields the rows of all cases, then of each draw of patients with all of their images."""
    names = np.unique(patients)
    yield np.arange(len(patients))
    for drawn in np.random.default_rng(seed).integers(len(names), size=(num_draws, len(names))):
        yield np.concatenate([np.flatnonzero(patients == names[i]) for i in drawn])


def difference(one: np.ndarray, other: np.ndarray, bootstrap: Bootstrap) -> dict[str, tuple[float, ...]]:
    """Returns one − the other with its interval."""
    return dict(intervals(paired_draws(bootstrap.metrics(one), bootstrap.metrics(other))))
