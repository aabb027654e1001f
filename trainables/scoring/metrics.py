"""Computes metrics of class probabilities with image weights. `bootstrap` adds the intervals.

Every metric is computed with image weights [N, R]. A column of ones gives the value of the metric. A column
with the counts of the patients in a draw gives one bootstrap draw. So a value and its interval always use the
same definition.

The K classes are mutually exclusive. `scores` [N, K] are probabilities. The prediction is the largest one.
- `balanced_accuracy` = `macro_recall`: mean recall.
- `macro_precision`: mean precision. A class that is never predicted counts 0, as in scikit-learn.
- `macro_auroc`: mean AUROC of one class against the rest. Ties count half.
- `nll`: mean −ln p(class), with p at least 2e-16. `brier`: Σ_k (p_k − y_k)², from 0 to 2.
- `ece`: expected calibration error of the predicted class over 15 bins of equal mass (Nguyen & O'Connor
  2015). It is biased upwards in small samples.
Macro averages are over the classes that occur. An undefined metric is left out, and is never 0 or 0.5. A
bootstrap draw without one of these classes is left out of the macro metrics.

For speed, weights are whole numbers in float32, whose sums are exact below 2^24. Other values are summed in
float64.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

NUM_BINS = 15
ROWS_AT_ONCE = 32  # rows in one block of a running sum
IMAGES_AT_ONCE = 256

ClassPairs = Mapping[str, tuple[int, int]]
"""Name, such as `non_covid_vs_normal` → two classes. Adds `accuracy_<name>` and `auroc_<name>` for them."""


def point_metrics(
    scores: np.ndarray, classes: np.ndarray, *, class_pairs: ClassPairs | None = None
) -> dict[str, float]:
    """Returns each defined metric of scores [N, K] for true classes int64 [N]."""
    weights = np.ones((len(classes), 1), np.float32)
    values = weighted_metrics(scores, classes, weights, class_pairs=class_pairs)
    return {name: float(value[0]) for name, value in values.items() if not np.isnan(value[0])}


def confusion_matrix(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns counts int64 [K, K]. Rows are the true classes, columns are the predicted classes."""
    num_classes = scores.shape[1]
    cells = classes * num_classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def pair_name(first: str, second: str) -> str:
    """Returns the name of a pair of classes: `non_covid_vs_normal` for `Non-COVID` and `Normal`."""
    return "_vs_".join(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in (first, second))


def explain_gaps(classes: np.ndarray, names: Sequence[str], *, split: str) -> list[str]:
    """Returns a sentence for each class that has no image, so that its metrics are undefined."""
    present = np.unique(classes).size
    return [
        f"split '{split}' has 0 images of class '{name}', so its recall and AUROC are undefined; macro "
        f"averages leave this class out ({present} of {len(names)} classes)"
        for k, name in enumerate(names)
        if not (classes == k).any()
    ]


def weighted_metrics(
    scores: np.ndarray,
    classes: np.ndarray,
    weights: np.ndarray,
    *,
    class_pairs: ClassPairs | None = None,
    with_ece: bool = True,
) -> dict[str, np.ndarray]:
    """Returns each metric [R] with image weights [N, R]. A value is NaN if it is undefined.

    Args:
        scores: class probabilities [N, K].
        classes: true classes, int64 [N].
        weights: whole numbers in float32, with one column for each draw.
        class_pairs: pairs of classes for which metrics on their images alone are added.
        with_ece: adds the calibration error, which takes as long as all other metrics together.
    """
    scores = np.asarray(scores, dtype=np.float64)
    values = _decision_metrics(scores, classes, weights)
    values["macro_auroc"] = np.mean(
        [weighted_auroc(scores[:, k], classes == k, weights) for k in np.unique(classes)], axis=0
    )
    values |= _probability_metrics(scores, classes, weights)
    if with_ece:
        values["ece"] = calibration_error(scores.max(1), scores.argmax(1) == classes, weights)
    for name, pair in (class_pairs or {}).items():
        values |= _pair_metrics(name, scores[:, pair], classes, pair, weights)
    return values


def weighted_auroc(
    values: np.ndarray, is_positive: np.ndarray, weights: np.ndarray, among: np.ndarray | None = None
) -> np.ndarray:
    """Returns P(positive above negative) + P(tie) / 2 in each draw [R]; NaN if either kind has no weight.

    Images are sorted by value. Then a run consists of negatives and the positives right after them. The
    positives of a run count as above all negatives of this run and of earlier runs. For ties, half of this
    count is subtracted again.

    Args:
        values: values of M images, [M]. A higher value means rather positive.
        is_positive: true labels, bool [M].
        weights: weights of N images, [N, R].
        among: positions of the M images among the N images. Default: all images.
    """
    order = np.lexsort((is_positive, values))
    values, is_positive = values[order], is_positive[order]
    images = order if among is None else among[order]
    run = np.cumsum(np.diff(is_positive.astype(np.int8), prepend=0) < 0)
    negative, positive = _sums_of_kinds(run, is_positive, images, weights)
    below = sum_products(positive, running_sums(negative))
    tied = np.cumsum(np.diff(values, prepend=values[:1]) != 0)
    is_mixed = (np.bincount(tied, is_positive) > 0) & (np.bincount(tied, ~is_positive) > 0)
    if is_mixed.any():
        kept = is_mixed[tied]
        place = np.cumsum(is_mixed)[tied[kept]] - 1
        below -= sum_products(*_sums_of_kinds(place, is_positive[kept], images[kept], weights)) / 2
    return ratio(below, total_weight(positive) * total_weight(negative))


def running_sums(rows: np.ndarray) -> np.ndarray:
    """Returns `np.cumsum(rows, axis=0)` of rows [G, R].

    It multiplies blocks of rows by a triangle of ones. NumPy's function takes ten times as long, because it
    goes down each column and misses the cache at every step.
    """
    num_blocks = -(-len(rows) // ROWS_AT_ONCE)
    blocks = np.zeros((num_blocks, ROWS_AT_ONCE, rows.shape[1]), rows.dtype)
    blocks.reshape(-1, rows.shape[1])[: len(rows)] = rows
    sums = np.tri(ROWS_AT_ONCE, dtype=rows.dtype) @ blocks
    if num_blocks > 1:
        sums[1:] += running_sums(sums[:-1, -1])[:, None]
    return sums.reshape(-1, rows.shape[1])[: len(rows)]


def _sums_of_kinds(
    group: np.ndarray, is_positive: np.ndarray, images: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns sums of the weights [N, R] of images by kind and group, [2, G, R], negatives first."""
    num_groups = int(group.max(initial=0)) + 1
    sums = sum_rows(group + num_groups * is_positive, images, weights, num_groups=2 * num_groups)
    return sums.reshape(2, num_groups, -1)


def sum_rows(group: np.ndarray, images: np.ndarray, weights: np.ndarray, *, num_groups: int) -> np.ndarray:
    """Returns sums of the weights [N, R] of the images in each group, [G, R]."""
    shares = np.ones(len(images), weights.dtype)
    return csr_array((shares, (group, images)), shape=(num_groups, len(weights))) @ weights


def sum_products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the sum over G of the products of two arrays [G, R]."""
    return np.einsum("gr,gr->r", one, other, dtype=np.float64)


def total_weight(weights: np.ndarray) -> np.ndarray:
    """Returns the sum of the weights [N, R] in each draw, float64 [R]."""
    return weights.sum(0).astype(np.float64)


def _decision_metrics(scores: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    num_classes = scores.shape[1]
    cell = classes * num_classes + scores.argmax(axis=1)
    counts = sum_rows(cell, np.arange(len(classes)), weights, num_groups=num_classes**2).T
    confusion = counts.reshape(-1, num_classes, num_classes)[:, np.unique(classes)].astype(np.float64)
    hits = np.stack([confusion[:, row, k] for row, k in enumerate(np.unique(classes))], axis=1)
    actual = confusion.sum(2)  # [R, classes that occur]
    predicted = confusion.sum(1)[:, np.unique(classes)]
    recall = ratio(hits, actual).mean(1)  # NaN if a draw lacks a class; then all macro metrics are NaN
    lost = np.where(np.isnan(recall), np.nan, 0.0)
    return {
        "accuracy": ratio(hits.sum(1), actual.sum(1)),
        "balanced_accuracy": recall,
        "macro_recall": recall,
        "macro_precision": np.nan_to_num(ratio(hits, predicted)).mean(1) + lost,
        "macro_f1": np.nan_to_num(ratio(2 * hits, actual + predicted)).mean(1) + lost,
    }


def _probability_metrics(
    scores: np.ndarray, classes: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    of_class = scores[np.arange(len(classes)), classes]
    surprise = -np.log(np.maximum(of_class, np.finfo(np.float64).eps))
    squares = (scores**2).sum(1) - 2 * of_class + 1
    nll, brier = weighted_sums(np.stack([surprise, squares]), weights) / total_weight(weights)
    return {"nll": nll, "brier": brier}


def weighted_sums(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns `rows @ weights` in float64, [M, R], for rows [M, N] and weights [N, R]."""
    sums = np.zeros((len(rows), weights.shape[1]))
    for start in range(0, len(weights), IMAGES_AT_ONCE):  # blocks in float64 fit the cache
        part = slice(start, start + IMAGES_AT_ONCE)
        sums += np.ascontiguousarray(rows[:, part]) @ weights[part].astype(np.float64)
    return sums


def calibration_error(
    confidence: np.ndarray, is_right: np.ndarray, weights: np.ndarray, among: np.ndarray | None = None
) -> np.ndarray:
    """Returns the ECE [R] over bins of equal weight in each draw. Equal confidences are in the same bin.

    Args:
        confidence: probabilities of M images, [M].
        is_right: whether the event occurred to which the probability belongs, bool [M].
        weights: weights of N images, [N, R].
        among: positions of the M images among the N images. Default: all images.
    """
    values, tied = np.unique(confidence, return_inverse=True)
    images = np.arange(len(tied)) if among is None else among
    wrong, right = _sums_of_kinds(tied, is_right, images, weights)
    total = wrong + right
    gaps = total * values[:, None]
    gaps -= right
    gaps = running_sums(gaps)
    so_far = running_sums(total)
    below = _num_below_edges(so_far, total)
    of_edges = np.where(below > 0, gaps[below - 1, np.arange(weights.shape[1])], 0)
    of_bins = np.diff(of_edges, axis=0, prepend=0, append=gaps[-1:])
    return ratio(np.abs(of_bins).sum(0), so_far[-1].astype(np.float64))


def _num_below_edges(so_far: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Returns, for each inner edge of the bins, the number of groups below the edge, [NUM_BINS - 1, R].

    A group [G, R] is below an edge if the middle of its mass is. Groups are in ascending order, so a binary
    search finds the number.
    """
    edges = np.arange(1, NUM_BINS)[:, None]
    draws, mass = np.arange(total.shape[1]), np.maximum(so_far[-1].astype(np.float64), 1)
    low = np.zeros((NUM_BINS - 1, len(draws)), np.int64)
    high = np.full_like(low, len(total))
    for _ in range(len(total).bit_length()):
        row = np.minimum((low + high) // 2, len(total) - 1)
        middle = (so_far[row, draws].astype(np.float64) - total[row, draws] / 2) / mass
        is_below = middle * NUM_BINS < edges
        low, high = np.where(is_below, row + 1, low), np.where(is_below, high, row)
    return low


def _pair_metrics(
    name: str, scores: np.ndarray, classes: np.ndarray, pair: tuple[int, int], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns metrics on the images of two classes. The scores of the two classes are scaled to sum to 1."""
    among = np.flatnonzero(np.isin(classes, pair))
    first, second = scores[among].T
    is_second = classes[among] == pair[1]
    share = second / np.maximum(first + second, np.finfo(np.float64).tiny)
    is_right = (second > first) == is_second
    wrong, right = sum_rows(is_right, among, weights, num_groups=2).astype(np.float64)
    return {
        f"accuracy_{name}": ratio(right, wrong + right),
        f"auroc_{name}": weighted_auroc(share, is_second, weights, among),
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns numerator / denominator; NaN if the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator != 0
    )
