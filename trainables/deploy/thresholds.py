"""Thresholds on calibrated probabilities, chosen on val: Youden's, and one of high sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.config import Config

SENSITIVITY = 0.95


class Thresholds(Config):
    """Class or finding → smallest probability that counts as present. None: val has no positive or negative.

    Attributes:
        youden: the largest sensitivity + specificity (Youden 1950).
        sensitivity_95: the highest threshold that finds at least 95 % of the positives.
    """

    youden: dict[str, float | None]
    sensitivity_95: dict[str, float | None]


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Thresholds:
    """Returns the thresholds of each class against the rest, or of each finding.

    Args:
        probabilities: calibrated, float64 [N, K].
        labels: int8 [N, K] of 1, 0 and -1 (unknown).
        names: K classes or findings.
    """
    chosen = [_choose(probabilities[:, k], labels[:, k]) for k in range(len(names))]
    youden, sensitive = (dict(zip(names, column, strict=True)) for column in zip(*chosen, strict=True))
    return Thresholds(youden=youden, sensitivity_95=sensitive)


def _choose(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    # This import takes two seconds, and readers of thresholds do not need it.
    from sklearn.metrics import roc_curve

    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return None, None
    false, true, at = roc_curve(labels[known], probabilities[known], drop_intermediate=False)
    false, true, at = false[1:], true[1:], at[1:]  # the first threshold is infinite
    return float(at[np.argmax(true - false)]), float(at[np.argmax(true >= SENSITIVITY)])
