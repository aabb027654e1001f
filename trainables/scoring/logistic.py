"""Fits multinomial logistic regression with many L2 strengths, fast enough for every epoch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

MAX_ITERATIONS = 1000  # as in CLIP, appendix A.3


@dataclass(frozen=True)
class LinearClassifier:
    """Softmax regression on raw embeddings: `weights` [D, K], `bias` [K]. They include standardisation."""

    weights: np.ndarray
    bias: np.ndarray

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns class probabilities float64 [N, K] for embeddings [N, D]."""
        return softmax(embeddings.astype(np.float64) @ self.weights + self.bias)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class FeatureSpace:
    """Standardised features of train and val, with no more coordinates than images.

    The L2 optimum lies in the row space of the data. So with fewer images N than features D, the fit needs
    only N coordinates. The Cholesky factor L of the Gram matrix Z Zᵀ = L Lᵀ provides these coordinates. The
    rows of L have the same inner products as the rows of Z, so the fit is the same, at N/D of the work.
    """

    train: np.ndarray  # float32 [N_train, M]
    val: np.ndarray  # float32 [N_val, M]
    mean: np.ndarray  # [D]
    deviation: np.ndarray  # [D]
    factor: tuple[np.ndarray, np.ndarray] | None  # L [M, M] and Z [M, D]; None: the features themselves

    @classmethod
    def spanned_by(cls, train: np.ndarray, val: np.ndarray, *, is_common: bool = False) -> FeatureSpace:
        """Returns embeddings [N_train, D] and [N_val, D], standardised by train, and rotated if N < D.

        If `is_common` is true, all features share one deviation: the root of their mean variance.
        """
        mean = train.mean(axis=0, dtype=np.float64)
        deviation = train.std(axis=0, dtype=np.float64)
        if is_common:
            deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
        deviation[deviation < 1e-12] = 1.0  # a constant feature stays 0
        features = (np.concatenate([train, val]) - mean) / deviation
        factor = None
        if features.shape[0] < features.shape[1]:
            gram = features @ features.T
            # Centred rows are linearly dependent. A tiny ridge, far below the tolerance, keeps L defined.
            gram[np.diag_indices_from(gram)] += 1e-10 * (np.trace(gram) or 1.0) / len(gram)
            factor = (np.linalg.cholesky(gram), features)
            features = factor[0]
        features = features.astype(np.float32)
        return cls(features[: len(train)], features[len(train) :], mean, deviation, factor)

    def to_classifier(self, weights: np.ndarray, bias: np.ndarray) -> LinearClassifier:
        """Returns the classifier on raw embeddings that equals weights [M, K] on these coordinates."""
        weights = weights.astype(np.float64)
        if self.factor is not None:  # weights W on the features, with Z W = L weights
            lower, features = self.factor
            weights = features.T @ solve_triangular(lower, weights, trans=1, lower=True)
        weights /= self.deviation[:, None]
        return LinearClassifier(weights, bias.astype(np.float64) - self.mean @ weights)


class PathSolver:
    """A solver that fits one training set with many strengths. A fit starts from the mean of its neighbours.

    The solver is Newton's method with conjugate gradients. Its results are more exact than the tolerance, so
    neighbouring strengths differ by more than solver noise. On real embeddings (783 × 1280), L-BFGS took
    twice the time for the same choice, and float32 took half the time of float64.
    """

    def __init__(self, features: np.ndarray, classes: np.ndarray) -> None:
        self.features, self.classes = features, classes
        self.solutions: dict[float, tuple[np.ndarray, np.ndarray]] = {}  # λ → weights [M, K], bias [K]

    def fit(self, strength: float, *, start: tuple[np.ndarray, np.ndarray] | None = None) -> bool:
        """Adds the solution for λ = `strength`, and returns whether the fit converged."""
        # This import takes two seconds, and a plan imports this module without fitting anything.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(
            C=1 / strength, solver="newton-cg", max_iter=MAX_ITERATIONS, warm_start=True
        )
        start = start or self._start(strength)
        if start is not None:
            model.coef_, model.intercept_ = _to_sklearn(*start)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.filterwarnings("always", "Line Search failed", UserWarning)
            model.fit(self.features, self.classes)
        self.solutions[strength] = _from_sklearn(model.coef_, np.asarray(model.intercept_))
        return not caught

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns class probabilities float64 [N, K] from the newest solution."""
        weights, bias = next(reversed(self.solutions.values()))
        return softmax((features @ weights + bias).astype(np.float64))

    def _start(self, strength: float) -> tuple[np.ndarray, np.ndarray] | None:
        below = max((l2 for l2 in self.solutions if l2 < strength), default=None)
        above = min((l2 for l2 in self.solutions if l2 > strength), default=None)
        near = [self.solutions[l2] for l2 in (below, above) if l2 is not None]
        if not near:
            return None
        weights, bias = zip(*near, strict=True)
        return np.mean(weights, axis=0), np.mean(bias, axis=0)


def _from_sklearn(coefficients: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [M, K] and bias [K]. For two classes, scikit-learn has only the second logit."""
    if len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    return coefficients.T, intercept


def _to_sklearn(weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    coefficients = np.ascontiguousarray(weights.T)
    return (coefficients[1:], bias[1:]) if len(bias) == 2 else (coefficients, bias)
