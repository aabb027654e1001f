"""Fits binary logistic regression for many findings at once, with many L2 strengths.

For each finding, the objective is scikit-learn's: the sum of the log losses, plus λ/2 ‖w‖². The bias is not
regularised. An image whose label is unknown does not count for this finding.

The solver is Newton's method. Conjugate gradients solve each step for all findings together, because all
findings share the features: one product of matrices serves 14 findings at the price of two or three. Features
are rotated to their principal axes, where the Hessian is almost diagonal, so few products suffice.
See decision 0041 for the comparison with scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from trainables.scoring.logistic import LinearClassifier

TOLERANCE = 1e-6
"""A fit has converged if Newton's estimate of the distance to the minimum is this share of the objective."""
MAX_STEPS = 100
MAX_PRODUCTS = 500  # products with the Hessian in one Newton step
MAX_HALVINGS = 30


class FindingClassifier(LinearClassifier):
    """Binary logistic regressions on raw embeddings: `weights` [D, K], `bias` [K]."""

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns a probability for each finding, float64 [N, K], for embeddings [N, D]."""
        return expit(embeddings.astype(np.float64) @ self.weights + self.bias)


class Solution(NamedTuple):
    """The fits of all findings: `weights` [M, K], `bias` [K], `is_converged` bool [K]."""

    weights: np.ndarray
    bias: np.ndarray
    is_converged: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns a probability for each finding, float64 [N, K], for features [N, M]."""
        logits = features @ self.weights.astype(features.dtype)
        return expit(logits.astype(np.float64) + self.bias)


class FindingSolver:
    """A solver that fits one training set with many strengths. A fit starts from the mean of its neighbours.

    A finding without positives or without negatives cannot be learned. It gets its smoothed prior, which is
    (positives + 1) / (positives + negatives + 2), and weights of 0.

    Attributes:
        prior: the smoothed prior of each finding, [K].
        is_learnable: whether a finding has positives and negatives, bool [K].
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Takes features float32 [N, M], and labels [N, K] of 1, 0 and −1 (unknown)."""
        positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
        self.prior = (positives + 1) / (positives + negatives + 2)
        self.is_learnable = (positives > 0) & (negatives > 0)
        self._signs = np.where(labels < 0, 0, np.where(labels > 0, 1, -1)).astype(np.int8)
        self._axes = np.linalg.eigh((features.T @ features).astype(np.float64))[1]
        self._features = np.ones((len(features), features.shape[1] + 1), np.float32)  # the last one: the bias
        np.matmul(features, self._axes.astype(np.float32), out=self._features[:, :-1])
        self._solutions: list[dict[float, _Fit]] = [{} for _ in self.prior]

    def fit(self, strengths: np.ndarray) -> Solution:
        """Returns the solution for one λ > 0 for each finding, [K]. A fit that was made before is reused."""
        todo = [k for k, l2 in enumerate(strengths) if self.is_learnable[k] and l2 not in self._solutions[k]]
        if todo:
            start = np.stack([self._start(k, strengths[k]) for k in todo], axis=1)
            ridge = np.tile(strengths[todo], (len(start), 1))
            ridge[-1] = 0
            weights, is_converged = minimise(self._features, self._signs[:, todo], ridge, start)
            for column, k in enumerate(todo):
                self._solutions[k][strengths[k]] = _Fit(weights[:, column], bool(is_converged[column]))
        fits = [
            self._solutions[k][l2] if self.is_learnable[k] else _Fit(self._of_prior(k), True)
            for k, l2 in enumerate(strengths)
        ]
        weights = np.stack([fit.weights for fit in fits], axis=1)
        is_converged = np.array([fit.is_converged for fit in fits])
        return Solution(self._axes @ weights[:-1], weights[-1], is_converged)

    def _start(self, k: int, strength: float) -> np.ndarray:
        tried = self._solutions[k]
        below = max((l2 for l2 in tried if l2 < strength), default=None)
        above = min((l2 for l2 in tried if l2 > strength), default=None)
        near = [tried[l2].weights for l2 in (below, above) if l2 is not None]
        return np.mean(near, axis=0) if near else self._of_prior(k)

    def _of_prior(self, k: int) -> np.ndarray:
        return np.append(np.zeros(len(self._axes)), logit(self.prior[k]))


@dataclass(frozen=True)
class _Fit:
    weights: np.ndarray  # [M + 1] on the rotated features; the last one is the bias
    is_converged: bool


def minimise(
    features: np.ndarray, signs: np.ndarray, ridge: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises Σ −ln σ(sign × logit) + Σ ridge/2 × w² for each finding by Newton's method.

    Args:
        features: float32 [N, M], best in principal axes: the columns are then orthogonal.
        signs: int8 [N, K]: 1 for a positive, −1 for a negative, 0 for an unknown label.
        ridge: the strength of each weight, [M, K]; 0 = not regularised.
        start: weights float64 [M, K] to start from.

    Returns:
        The weights float64 [M, K], and whether each finding converged, bool [K].
    """
    weights, is_converged = start.astype(np.float64), np.zeros(signs.shape[1], bool)
    logits = _product(features, weights)
    squares = np.einsum("nm,nm->m", features, features).astype(np.float64) / len(features)
    value = _objective(logits, weights, signs, ridge)
    live = np.arange(signs.shape[1])
    for _ in range(MAX_STEPS):
        of_live, penalty, now = signs[:, live], ridge[:, live], logits[:, live]
        chance = expit(now)
        surplus = np.where(of_live == 0, 0, chance - (of_live > 0))
        curvature = np.where(of_live == 0, 0, np.maximum(chance * (1 - chance), 1e-12))
        gradient = _product(features.T, surplus) + penalty * weights[:, live]
        diagonal = np.outer(squares, curvature.sum(0)) + penalty
        step = _newton_step(features, curvature, penalty, gradient, diagonal, value[live])
        gain = -(gradient * step).sum(0)
        moved = _product(features, step)
        size, lower, is_high = np.ones(len(live)), value[live], np.ones(len(live), bool)
        for _ in range(MAX_HALVINGS):
            lower = _objective(now + size * moved, weights[:, live] + size * step, of_live, penalty)
            is_high = ~(lower <= value[live] - 1e-4 * size * gain)
            if not is_high.any():
                break
            size[is_high] /= 2
        size[is_high], lower[is_high] = 0, value[live][is_high]  # rounding hides the descent: stay here
        weights[:, live] += size * step
        logits[:, live] += size * moved
        is_converged[live] = gain / 2 <= TOLERANCE * value[live]
        value[live] = lower
        live = live[~is_converged[live] & (size > 0)]
        if not len(live):
            break
    return weights, is_converged


def _newton_step(
    features: np.ndarray,
    curvature: np.ndarray,
    ridge: np.ndarray,
    gradient: np.ndarray,
    diagonal: np.ndarray,
    value: np.ndarray,
) -> np.ndarray:
    """Returns about −H⁻¹ × gradient [M, K], by conjugate gradients with a diagonal preconditioner.

    The step is the more exact, the closer the minimum is (inexact Newton: Nocedal & Wright, chapter 7).
    """
    step, rest, live = np.zeros_like(gradient), -gradient, np.arange(gradient.shape[1])
    scaled = rest / diagonal
    direction, size = scaled.copy(), (rest * scaled).sum(0)
    goal = size * np.minimum(0.25, size / np.maximum(value, np.finfo(np.float64).tiny))
    for _ in range(MAX_PRODUCTS):
        live = live[size[live] > goal[live]]
        if not len(live):
            break
        along = direction[:, live]
        image = _product(features.T, curvature[:, live] * _product(features, along)) + ridge[:, live] * along
        length = size[live] / (along * image).sum(0)
        step[:, live] += length * along
        rest[:, live] -= length * image
        scaled = rest[:, live] / diagonal[:, live]
        next_size = (rest[:, live] * scaled).sum(0)
        direction[:, live] = scaled + next_size / size[live] * along
        size[live] = next_size
    return step


def _product(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns matrix @ columns as float64, multiplied in the type of the matrix, which halves the time."""
    return (matrix @ columns.astype(matrix.dtype)).astype(np.float64)


def _objective(logits: np.ndarray, weights: np.ndarray, signs: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    losses = np.where(signs == 0, 0, np.logaddexp(0, -signs * logits))
    return losses.sum(0) + (ridge * weights**2).sum(0) / 2
