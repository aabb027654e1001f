"""Computes metrics of several findings per image with image weights. `metrics` explains the weights.

Each image has K labels: 1, 0 or -1 (unknown). Each column of `scores` [N, K] is a probability of its own. An
image with an unknown label of a finding does not count for this finding.
- `auroc`: ties count half.
- `average_precision`: Σ (gain in recall × precision) over thresholds, as in scikit-learn.
- `nll`: mean −ln p(label), with p at least 2e-16. `brier`: mean (p − y)², from 0 to 1.
- `ece`: calibration error of p over 15 bins of equal mass.
A finding without positive or without negative images is undefined: all its values are NaN. If only a
bootstrap draw lacks one of the two kinds, its AUROC and average precision are NaN.

Macro averages are over the defined findings. The last column is `NO_FINDING`, which is in no macro average.
If a value of a finding is NaN in a draw, the draw averages the other findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainables.scoring.metrics import (
    calibration_error,
    ratio,
    running_sums,
    sum_products,
    sum_rows,
    weighted_sums,
)

MACRO_NAMES = {
    "auroc": "macro_auroc",
    "average_precision": "macro_ap",
    "nll": "nll",
    "brier": "brier",
    "ece": "ece",
}
"""Metric of a finding → name of its mean over the findings."""


def point_finding_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns each defined macro average of scores [N, K] for labels int8 [N, K]."""
    by_finding = metrics_by_finding(scores, labels, np.ones((len(labels), 1), np.float32))
    values = macro_averages(by_finding, labels)
    return {name: float(value[0]) for name, value in values.items() if not np.isnan(value[0])}


def macro_averages(by_finding: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the mean [R] of each metric [R, K] over the defined findings; NaN if a draw has none."""
    kept = np.flatnonzero(is_defined(labels[:, :-1]))
    values = {MACRO_NAMES[name]: each[:, kept] for name, each in by_finding.items()}
    return {
        name: ratio(np.nansum(each, axis=1), np.sum(~np.isnan(each), axis=1)) for name, each in values.items()
    }


def metrics_by_finding(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, with_ece: bool = True
) -> dict[str, np.ndarray]:
    """Returns each metric [R, K] of each finding with image weights [N, R].

    Args:
        scores: probabilities [N, K].
        labels: 1, 0 or -1 (unknown), int8 [N, K].
        weights: whole numbers in float32, with one column for each draw.
        with_ece: adds the calibration error, which takes most of the time.
    """
    scores = np.asarray(scores, dtype=np.float64)
    values = _probability_metrics(scores, labels, weights)
    for name in ("auroc", "average_precision", *(["ece"] if with_ece else [])):
        values[name] = np.full((weights.shape[1], labels.shape[1]), np.nan)
    for k in np.flatnonzero(is_defined(labels)):
        known = np.flatnonzero(labels[:, k] >= 0)
        of_known, is_positive = scores[known, k], labels[known, k] == 1
        ranked = ranking_metrics(of_known, is_positive, weights, known)
        values["auroc"][:, k], values["average_precision"][:, k] = ranked
        if with_ece:
            values["ece"][:, k] = calibration_error(of_known, is_positive, weights, known)
    return values


def is_defined(labels: np.ndarray) -> np.ndarray:
    """Returns which findings of labels [N, K] have a positive and a negative image, bool [K]."""
    return (labels == 1).any(0) & (labels == 0).any(0)


def ranking_metrics(
    values: np.ndarray, is_positive: np.ndarray, weights: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns AUROC [R] and average precision [R]; NaN if a draw lacks positives or negatives.

    Both change only at values that a positive image has. Images are sorted once. For each such value there
    are three sums of weights: of the negatives below it and above the previous one, of its negatives, and of
    its positives.

    Args:
        values: values of M images, [M]. A higher value means rather positive.
        is_positive: true labels, bool [M].
        weights: weights of N images, whole numbers, [N, R].
        among: positions of the M images among the N images.
    """
    steps = np.unique(values[is_positive])
    step = np.searchsorted(steps, values)
    is_tied = values == np.append(steps, np.inf)[step]
    kind = is_tied.astype(np.int64) + is_positive
    num_steps = len(steps) + 1  # the last one has only the negatives above all positives
    sums = sum_rows(step + num_steps * kind, among, weights, num_groups=3 * num_steps)
    lower, tied, positive = sums.reshape(3, num_steps, -1)
    beaten = running_sums(lower + tied) - tied  # negatives below each value
    num_positive, num_negative = positive.sum(0, np.float64), (lower + tied).sum(0, np.float64)
    auroc = ratio(
        sum_products(positive, beaten) + sum_products(positive, tied) / 2, num_positive * num_negative
    )
    found = running_sums(positive[::-1])[::-1].astype(np.float64)  # positives from each value upwards
    precision = found / np.maximum(found + num_negative - beaten, 1)  # found is 0 where the sum is
    ap = ratio(sum_products(positive, precision), np.where(num_negative > 0, num_positive, 0))
    return auroc, ap


def _probability_metrics(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    is_known = (labels >= 0) & is_defined(labels)
    of_label = np.where(labels == 1, scores, 1 - scores)
    surprise = np.where(is_known, -np.log(np.maximum(of_label, np.finfo(np.float64).eps)), 0)
    squares = np.where(is_known, (1 - of_label) ** 2, 0)
    sums = weighted_sums(np.concatenate([surprise, squares, is_known], axis=1).T, weights)
    nll, brier, known = sums.reshape(3, labels.shape[1], -1).transpose(0, 2, 1)
    return {"nll": ratio(nll, known), "brier": ratio(brier, known)}


def explain_finding_gaps(labels: np.ndarray, names: Sequence[str], *, split: str) -> list[str]:
    """Returns a sentence for each finding without positive or without negative images.

    Args:
        labels: 1, 0 or -1 (unknown), int8 [N, K].
        names: the K findings; the last one is `NO_FINDING`.
        split: the split of the images.
    """
    defined = is_defined(labels)
    in_macro = f"macro averages leave it out ({defined[:-1].sum()} of {len(names) - 1} findings)"
    return [
        f"split '{split}' has {_counted(labels[:, k])} of '{name}', so its metrics are undefined"
        + (f"; {in_macro}" if k < len(names) - 1 else "")
        for k, name in enumerate(names)
        if not defined[k]
    ]


def _counted(labels: np.ndarray) -> str:
    positive, negative, unknown = num_images(labels[:, None]).ravel()
    hidden = f" and {unknown} unknown labels" if unknown else ""
    return f"{positive} positive images, {negative} negative images{hidden}"


def num_images(labels: np.ndarray) -> np.ndarray:
    """Returns the numbers of positive, negative and unknown labels of each finding, int64 [K, 3]."""
    return np.stack([(labels == value).sum(0) for value in (1, 0, -1)], axis=1)
