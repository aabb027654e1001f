"""Calibration of probabilities on val: a temperature for classes, Platt's line for each finding.

Both keep the order of the scores of a class or finding, so that no AUROC of a finding changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit

from trainables.config import Config

SMALLEST = 1e-12
"""Probabilities are kept this far from 0 and 1, where their logarithms are infinite."""
MAX_FACTOR = 100.0
"""Limit of the temperature, of its inverse, and of Platt's slope: a few val images can be separable."""


class Temperature(Config):
    """Temperature scaling of classes (Guo et al. 2017, arXiv:1706.04599): softmax(ln p / T)."""

    temperature: float

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities float64 [N, K]; each row sums to 1."""
        return np.exp(log_softmax(np.log(np.maximum(scores, SMALLEST)) / self.temperature, axis=1))


class Platt(Config):
    """Platt scaling of findings: σ(slope × logit p + intercept), with one line for each finding.

    A finding without positives or without negatives in val keeps its scores: slope 1, intercept 0.
    """

    slope: tuple[float, ...]
    intercept: tuple[float, ...]

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities float64 [N, K]; each column is a probability of its own."""
        return expit(np.array(self.slope) * _logits(scores) + np.array(self.intercept))


Calibration = Temperature | Platt


def fit_temperature(scores: np.ndarray, classes: np.ndarray) -> Temperature:
    """Returns the temperature with the lowest negative log-likelihood of the classes int64 [N]."""
    logs = np.log(np.maximum(scores, SMALLEST))

    def loss(log_temperature: float) -> float:
        return -float(
            log_softmax(logs / np.exp(log_temperature), axis=1)[np.arange(len(logs)), classes].mean()
        )

    bound = np.log(MAX_FACTOR)
    found: Any = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return Temperature(temperature=float(np.exp(found.x)))


def fit_platt(scores: np.ndarray, labels: np.ndarray) -> Platt:
    """Returns the line of each finding, fitted to its known labels int8 [N, K] of 1, 0 and -1 (unknown).

    The targets are Platt's (1999, §2.2), (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), so that a few separable images
    give no infinite slope. The slope is positive: a finding that is scored badly is not scored in reverse.
    """
    lines = [_line(_logits(scores[:, k]), labels[:, k]) for k in range(labels.shape[1])]
    slope, intercept = zip(*lines, strict=True)
    return Platt(slope=slope, intercept=intercept)


def _line(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    known = labels >= 0
    x, is_positive = logits[known], labels[known] == 1
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return 1.0, 0.0
    targets = np.where(is_positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * x + line[1]
        error = expit(z) - targets
        return float((np.logaddexp(0, z) - targets * z).mean()), np.array([(error * x).mean(), error.mean()])

    bounds = [(1 / MAX_FACTOR, MAX_FACTOR), (None, None)]
    fit: Callable[..., Any] = minimize
    found = fit(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0]), float(found[1])


def _logits(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, SMALLEST, 1 - SMALLEST))
