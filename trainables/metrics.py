"""Point metrics, their intervals by patient, and paired differences. NumPy only; one code path for all three.

Every metric is computed under image weights [R, N]: a row of ones gives the value itself, a row of patient
counts one bootstrap draw. So a value and its interval can never disagree about a definition.

Definitions. K classes, mutually exclusive; `scores` [N, K] are probabilities; the prediction is the largest.
- `balanced_accuracy` = `macro_recall`: mean recall.
- `macro_precision`: a class never predicted counts 0, as in scikit-learn.
- `macro_auroc`: one class against the rest, averaged; ties count half.
- `nll`: mean −ln p(class), p at least 2e-16. `brier`: Σ_k (p_k − y_k)², 0 to 2.
- `ece`: expected calibration error of the predicted class over 15 bins of equal mass (Nguyen & O'Connor
  2015); biased upwards in small samples.
Macro averages run over the classes that occur. What is undefined is absent, never 0 or 0.5: a bootstrap draw
that lost a class is left out of the macro metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

LOWER_IS_BETTER = frozenset({"nll", "brier", "ece"})
NUM_DRAWS = 1000
NUM_BINS = 15
ELEMENTS_AT_ONCE = 4_000_000  # of the weight matrix: 32 MB

Draws = Mapping[str, np.ndarray]
"""Metric → [1 + R] values: the value itself, then one per bootstrap draw; NaN where undefined."""

ClassPairs = Mapping[str, tuple[int, int]]
"""Name, e.g. `non_covid_vs_normal` → two classes; adds `accuracy_<name>`, `auroc_<name>` among these."""


class Interval(NamedTuple):
    """A value and its 95 % percentile interval; NaN bounds where under half of the draws are defined."""

    value: float
    low: float
    high: float


def point_metrics(
    scores: np.ndarray, classes: np.ndarray, *, class_pairs: ClassPairs | None = None
) -> dict[str, float]:
    """Returns every defined metric of scores [N, K] against classes int64 [N]."""
    weights = np.ones((1, len(classes)))
    values = weighted_metrics(scores, classes, weights, class_pairs=class_pairs)
    return {name: float(value[0]) for name, value in values.items() if not np.isnan(value[0])}


def interval_metrics(
    scores: np.ndarray,
    classes: np.ndarray,
    patients: np.ndarray,
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    class_pairs: ClassPairs | None = None,
) -> dict[str, Interval]:
    """Returns every defined metric with its interval, see `bootstrap` for the arguments."""
    draws = bootstrap(scores, classes, patients, seed=seed, num_draws=num_draws, class_pairs=class_pairs)
    return intervals(draws)


def paired_difference(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    classes: np.ndarray,
    patients: np.ndarray,
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    class_pairs: ClassPairs | None = None,
) -> dict[str, Interval]:
    """Returns a − b of every metric and the error cuts of a against b: identical cases, identical draws."""
    of_a, of_b = (
        bootstrap(scores, classes, patients, seed=seed, num_draws=num_draws, class_pairs=class_pairs)
        for scores in (scores_a, scores_b)
    )
    return intervals(paired_draws(of_a, of_b))


def bootstrap(
    scores: np.ndarray,
    classes: np.ndarray,
    patients: np.ndarray,
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    class_pairs: ClassPairs | None = None,
) -> dict[str, np.ndarray]:
    """Draws patients with replacement, each with all of its images, and computes every metric in every draw.

    Args:
        scores: [N, K], or [S, N, K] of S training seeds: then every metric is the mean over seeds, and one
            draw of patients serves all seeds jointly.
        classes: int64 [N].
        patients: str [N]; images of one patient are drawn together.
        seed: the same seed and patients give the same draws, whatever the scores; so differences are paired.
        num_draws: R.
        class_pairs: adds metrics among two classes alone.
    """
    by_seed = scores.reshape(-1, *scores.shape[-2:])
    parts = [
        [weighted_metrics(one, classes, weights, class_pairs=class_pairs) for one in by_seed]
        for weights in patient_weights(patients, seed=seed, num_draws=num_draws)
    ]
    return {
        name: np.concatenate([np.mean([values[name] for values in part], axis=0) for part in parts])
        for name in parts[0][0]
    }


def patient_weights(patients: np.ndarray, *, seed: int, num_draws: int) -> Iterator[np.ndarray]:
    """Yields image weights [r, N]: first a row of ones, then how often each image's patient was drawn."""
    names, patient_of = np.unique(patients, return_inverse=True)
    num_patients = len(names)
    yield np.ones((1, len(patients)))
    generator = np.random.default_rng(seed)
    rows = max(1, ELEMENTS_AT_ONCE // max(len(patients), 1))
    for start in range(0, num_draws, rows):
        num_rows = min(rows, num_draws - start)
        drawn = generator.integers(num_patients, size=(num_rows, num_patients))
        drawn += num_patients * np.arange(num_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_patients).reshape(num_rows, num_patients)
        yield counts[:, patient_of].astype(np.float64)


def paired_draws(of_a: Draws, of_b: Draws) -> dict[str, np.ndarray]:
    """Returns draws of a − b, and of the error cut 1 − error_a / error_b.

    The cut of accuracy is `error_cut`; that of an AUROC, e.g. `error_cut_macro_auroc`.
    """
    differences = {name: of_a[name] - of_b[name] for name in of_a if name in of_b}
    for name in list(differences):
        if name == "accuracy" or "auroc" in name:
            key = "error_cut" if name == "accuracy" else f"error_cut_{name}"
            differences[key] = 1 - _ratio(1 - of_a[name], 1 - of_b[name])
    return differences


def intervals(draws: Draws) -> dict[str, Interval]:
    """Returns value and 95 % percentile interval of every metric whose value is defined."""
    return {name: _interval(values) for name, values in draws.items() if not np.isnan(values[0])}


def _interval(values: np.ndarray) -> Interval:
    drawn = values[1:][~np.isnan(values[1:])]
    if 2 * drawn.size < max(values.size - 1, 1):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(values[0]), float(low), float(high))


def over_draws(draws: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Returns the mean over draws of every metric that all of them have, with Student's 95 % interval."""
    from scipy.special import stdtrit  # only where it is used

    found: dict[str, Interval] = {}
    for name in draws[0]:
        values = np.array([draw[name] for draw in draws if name in draw])
        if len(values) == len(draws):
            mean, error = float(values.mean()), float(values.std(ddof=1)) / np.sqrt(len(values))
            half = float(stdtrit(len(values) - 1, 0.975)) * error
            found[name] = Interval(mean, mean - half, mean + half)
    return found


def to_metrics(prefix: str, values: Mapping[str, Interval]) -> dict[str, float]:
    """Returns `<prefix>/<metric>` with its `_low` and `_high` twins; an undefined bound is absent."""
    flat = {
        f"{prefix}/{name}{suffix}": bound
        for name, interval in values.items()
        for suffix, bound in zip(("", "_low", "_high"), interval, strict=True)
    }
    return {key: value for key, value in flat.items() if not np.isnan(value)}


def confusion_matrix(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns counts int64 [K, K]: rows are the true classes, columns the predicted."""
    num_classes = scores.shape[1]
    cells = classes * num_classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def pair_name(first: str, second: str) -> str:
    """Returns `non_covid_vs_normal` for `Non-COVID`, `Normal`."""
    return "_vs_".join(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in (first, second))


def explain_gaps(classes: np.ndarray, names: Sequence[str], *, split: str) -> list[str]:
    """Returns a sentence for every class without an image, whose metrics are therefore undefined."""
    present = np.unique(classes).size
    return [
        f"split '{split}' has 0 images of class '{name}', so its recall and AUROC are undefined: "
        f"left out of the macro averages ({present} of {len(names)} classes)"
        for k, name in enumerate(names)
        if not (classes == k).any()
    ]


def weighted_metrics(
    scores: np.ndarray, classes: np.ndarray, weights: np.ndarray, *, class_pairs: ClassPairs | None = None
) -> dict[str, np.ndarray]:
    """Returns every metric [R] under image weights [R, N]; NaN where undefined."""
    scores = np.asarray(scores, dtype=np.float64)
    values = _decision_metrics(scores, classes, weights)
    values["macro_auroc"] = np.mean(
        [weighted_auroc(scores[:, k], classes == k, weights) for k in np.unique(classes)], axis=0
    )
    values |= _probability_metrics(scores, classes, weights)
    for name, pair in (class_pairs or {}).items():
        values |= _pair_metrics(name, scores[:, pair], classes, pair, weights)
    return values


def weighted_auroc(values: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns P(positive above negative) + P(tie) / 2 in each draw [R]; NaN if a kind has no weight."""
    order = np.argsort(values, kind="stable")
    total = weights[:, order]
    positive = total * is_positive[order]
    total, positive = (_sum_ties(w, values[order]) for w in (total, positive))
    negative = total - positive
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def _decision_metrics(scores: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    num_classes = scores.shape[1]
    cell = np.zeros((len(classes), num_classes**2))
    cell[np.arange(len(classes)), classes * num_classes + scores.argmax(axis=1)] = 1
    confusion = (weights @ cell).reshape(-1, num_classes, num_classes)[:, np.unique(classes)]
    hits = np.stack([confusion[:, row, k] for row, k in enumerate(np.unique(classes))], axis=1)
    actual = confusion.sum(2)  # [R, classes that occur]
    predicted = confusion.sum(1)[:, np.unique(classes)]
    recall = _ratio(hits, actual).mean(1)  # NaN where a draw lost a class: every macro metric follows
    lost = np.where(np.isnan(recall), np.nan, 0.0)
    return {
        "accuracy": _ratio(hits.sum(1), actual.sum(1)),
        "balanced_accuracy": recall,
        "macro_recall": recall,
        "macro_precision": np.nan_to_num(_ratio(hits, predicted)).mean(1) + lost,
        "macro_f1": np.nan_to_num(_ratio(2 * hits, actual + predicted)).mean(1) + lost,
    }


def _probability_metrics(
    scores: np.ndarray, classes: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    total = weights.sum(1)
    of_class = scores[np.arange(len(classes)), classes]
    surprise = -np.log(np.maximum(of_class, np.finfo(np.float64).eps))
    squares = (scores**2).sum(1) - 2 * of_class + 1
    return {
        "nll": weights @ surprise / total,
        "brier": weights @ squares / total,
        "ece": _calibration_error(scores.max(1), scores.argmax(1) == classes, weights),
    }


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ECE [R], bins of equal weight in each draw; equal confidences share a bin: order means nothing."""
    order = np.argsort(confidence, kind="stable")
    total = weights[:, order]
    gap = total * (confidence - is_right)[order]
    total, gap = (_sum_ties(w, confidence[order]) for w in (total, gap))
    mass = total.sum(1, keepdims=True)
    middle = (np.cumsum(total, axis=1) - total / 2) / mass
    bins = np.minimum((middle * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins += NUM_BINS * np.arange(len(weights))[:, None]
    gaps = np.bincount(bins.ravel(), gap.ravel(), minlength=NUM_BINS * len(weights)).reshape(-1, NUM_BINS)
    return np.abs(gaps).sum(1) / mass[:, 0]


def _pair_metrics(
    name: str, scores: np.ndarray, classes: np.ndarray, pair: tuple[int, int], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics among the images of two classes, on their two scores renormalised to sum to 1."""
    among = np.isin(classes, pair)
    first, second = scores[among].T
    is_second = classes[among] == pair[1]
    weights = weights[:, among]
    share = second / np.maximum(first + second, np.finfo(np.float64).tiny)
    is_right = (second > first) == is_second
    return {
        f"accuracy_{name}": _ratio(weights @ is_right, weights.sum(1)),
        f"auroc_{name}": weighted_auroc(share, is_second, weights),
    }


def _sum_ties(weights: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Sums columns of weights [R, N] whose (sorted) values are equal."""
    starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    return weights if len(starts) == len(ordered) else np.add.reduceat(weights, starts, axis=1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator != 0
    )
