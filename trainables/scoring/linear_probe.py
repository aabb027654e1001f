"""The linear probe: multinomial logistic regression on stored embeddings, with an L2 strength chosen on val.

Protocol: CLIP, appendix A.3 (Radford et al. 2021, arXiv:2103.00020). λ runs over 1e-6…1e6 in 96 logarithmic
steps. The search fits seven values, two decades apart. Then it fits the two neighbours of the best value, at
half the distance, four times: 7 + 4 × 2 = 15 fits instead of 97. For test, the classifier with the chosen λ
is refitted on train and val together.

The loss is the sum over images of −ln p, plus λ/2 ‖W‖² (scikit-learn: C = 1/λ). The bias is not regularised.
Features are standardised with the mean and deviation of train, in the refit too, so that λ keeps its meaning.
If train is separable, small λ give results that differ by less than the solver's tolerance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from trainables.errors import DataError
from trainables.scoring.logistic import FeatureSpace, LinearClassifier, PathSolver
from trainables.scoring.metric_names import LOWER_IS_BETTER
from trainables.scoring.metrics import point_metrics

logger = logging.getLogger(__name__)
STEPS_PER_DECADE = 8
STRENGTHS = tuple(10.0 ** (step / STEPS_PER_DECADE - 6) for step in range(97))
COARSE_STEP = 16
OBJECTIVE = "macro_auroc"


class Examples(NamedTuple):
    """Embeddings with targets: `embeddings` float [N, D]; `classes` int64 [N], or labels int8 [N, K]."""

    embeddings: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class ProbeFit:
    """A fit on train alone with one strength: its metrics on val."""

    l2: float
    metrics: Mapping[str, float]
    is_converged: bool


@dataclass(frozen=True)
class ProbePath:
    """All fits in the order in which they were made, and the chosen fit."""

    fits: tuple[ProbeFit, ...]
    chosen: ProbeFit
    val_scores: np.ndarray  # [N, K] on val, from the chosen fit on train alone
    classifier: LinearClassifier = field(repr=False)  # refitted on train and val

    @property
    def l2(self) -> float:
        """The chosen λ."""
        return self.chosen.l2

    @property
    def num_unconverged(self) -> int:
        """The number of fits that stopped before the gradient met the tolerance."""
        return sum(not fit.is_converged for fit in self.fits)

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns probabilities [N, K] from the refit on train and val. Use them for test, never for val."""
        return self.classifier.scores(embeddings)


def fit_path(
    train: Examples,
    val: Examples,
    *,
    class_names: Sequence[str],
    l2: float | None = None,
    objective: str = OBJECTIVE,
) -> ProbePath:
    """Chooses λ on val by `objective`, and refits on train and val.

    A tie goes to the lower `nll`, then to the stronger regularisation.

    Raises:
        DataError: train lacks a class, or the objective is undefined on val.
    """
    _check(train, val, class_names)
    space = FeatureSpace.spanned_by(train.embeddings, val.embeddings)
    solver = PathSolver(space.train, train.classes)
    fits: dict[float, ProbeFit] = {}
    scores: dict[float, np.ndarray] = {}

    def fit(strength: float) -> ProbeFit:
        is_converged = solver.fit(strength)
        scores[strength] = solver.scores(space.val)
        fits[strength] = ProbeFit(strength, point_metrics(scores[strength], val.classes), is_converged)
        return fits[strength]

    chosen = fit(l2).l2 if l2 else bisect(lambda strength: _rank(fit(strength).metrics, objective))
    refit = PathSolver(np.concatenate([space.train, space.val]), np.concatenate([train.classes, val.classes]))
    refit.fit(chosen, start=solver.solutions[chosen])
    return ProbePath(
        fits=tuple(fits.values()),
        chosen=fits[chosen],
        val_scores=scores[chosen],
        classifier=space.to_classifier(*refit.solutions[chosen]),
    )


def bisect(evaluate: Callable[[float], tuple[float, float]]) -> float:
    """Returns the best strength by CLIP's search, which evaluates at most 15 of `STRENGTHS`.

    A higher rank is better. A tie goes to the stronger regularisation.
    """
    search = bisection()
    strength = next(search)
    while True:
        try:
            strength = search.send(evaluate(strength))
        except StopIteration as best:
            return best.value


def bisection() -> Generator[float, tuple[float, float], float]:
    """Yields each strength that CLIP's search evaluates, takes its rank, and returns the best strength."""
    ranks: dict[int, tuple[float, float]] = {}

    def best() -> int:
        return max(ranks, key=lambda step: (ranks[step], step))

    for step in range(len(STRENGTHS) - 1, -1, -COARSE_STEP):  # the strongest λ is the easiest fit
        ranks[step] = yield STRENGTHS[step]
    distance = COARSE_STEP
    while distance > 1:
        distance //= 2
        peak = best()
        for step in (peak + distance, peak - distance):
            if 0 <= step < len(STRENGTHS):
                ranks[step] = yield STRENGTHS[step]
    return STRENGTHS[best()]


def _rank(metrics: Mapping[str, float], objective: str) -> tuple[float, float]:
    if objective not in metrics:
        raise DataError(
            f"{objective} is undefined on split 'val', because all its images have one class, so no probe "
            "strength can be chosen; change the split or set probe.l2"
        )
    value = metrics[objective]
    return (-value if objective in LOWER_IS_BETTER else value, -metrics["nll"])


def _check(train: Examples, val: Examples, class_names: Sequence[str]) -> None:
    absent = [name for k, name in enumerate(class_names) if not (train.classes == k).any()]
    if absent:
        raise DataError(
            f"split 'train' has 0 images of class '{absent[0]}', so no probe can learn this class"
        )
    if len(val.classes) == 0:
        raise DataError(
            "split 'val' has no images, but the probe strength is chosen on val; put some patients into val"
        )
