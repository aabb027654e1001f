"""The linear probe of findings: one binary logistic regression for each finding.

The protocol is that of `linear_probe`: the same strengths, the same search, and a refit on train and val. All
findings share one λ, which the macro average on val chooses. Or each finding has its own λ, which its AUROC
on val chooses. Features are standardised with the mean and deviation of train, once for all findings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainables.errors import DataError
from trainables.scoring.finding_logistic import FindingClassifier, FindingSolver
from trainables.scoring.finding_metrics import MACRO_NAMES, is_defined, metrics_by_finding
from trainables.scoring.linear_probe import OBJECTIVE, Examples, ProbeFit, ProbePath, bisection
from trainables.scoring.logistic import FeatureSpace
from trainables.scoring.metric_names import LOWER_IS_BETTER

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FindingPath(ProbePath):
    """A path whose scores are a probability for each finding, [N, K].

    `l2_of_finding` holds the chosen λ of each finding. If each finding has its own λ, then a fit tries one λ
    for each finding, and its `l2` is their median.
    """

    l2_of_finding: tuple[float, ...] = ()


class Group(NamedTuple):
    """Findings that share one λ, and the findings whose macro average on val chooses it."""

    findings: tuple[int, ...]
    judged: tuple[int, ...]


def fit_finding_path(
    train: Examples,
    val: Examples,
    *,
    class_names: Sequence[str],
    macro: Sequence[int],
    l2: float | None = None,
    per_finding: bool = False,
    objective: str = OBJECTIVE,
) -> FindingPath:
    """Chooses λ on val by `objective`, and refits on train and val.

    A tie goes to the lower `nll`, then to the stronger regularisation. A finding without positives or without
    negatives in train gets its prior, with a warning. If each finding has its own λ, then a finding that val
    cannot judge takes the median λ of the others.

    Args:
        train: embeddings [N, D] with labels int8 [N, K] of 1, 0 and −1 (unknown).
        val: the same for val.
        class_names: K names: the findings, and perhaps `No Finding`.
        macro: the positions of the findings that macro averages cover.
        l2: a fixed λ for all findings, which needs only one fit.
        per_finding: chooses one λ for each finding instead of one λ for all.
        objective: the metric that chooses λ.

    Raises:
        DataError: val has no images, or the objective is undefined on val.
    """
    if len(val.classes) == 0:
        raise DataError(
            "split 'val' has no images, but the probe strength is chosen on val; put some patients into val"
        )
    space = FeatureSpace.spanned_by(train.embeddings, val.embeddings)
    solver = FindingSolver(space.train, train.classes)
    _warn(solver, train.classes, class_names)
    fits: dict[tuple[float, ...], ProbeFit] = {}

    def evaluate(strengths: np.ndarray) -> np.ndarray:
        solution = solver.fit(strengths)
        scores = solution.scores(space.val)
        metrics = _metrics(scores, val.classes, macro)
        fits.setdefault(
            tuple(strengths), ProbeFit(_middle(strengths), metrics, bool(solution.is_converged.all()))
        )
        return scores

    every = tuple(range(len(class_names)))
    groups = [Group((k,), (k,)) for k in every] if per_finding else [Group(every, tuple(macro))]
    strengths = np.full(len(every), l2) if l2 else choose_strengths(evaluate, groups, val.classes, objective)
    val_scores = evaluate(strengths)
    # The refit starts anew: where train is separable, its solution is a bad start for the images of val.
    refit = FindingSolver(
        np.concatenate([space.train, space.val]), np.concatenate([train.classes, val.classes])
    ).fit(strengths)
    if not refit.is_converged.all():
        logger.warning("the refit of the probe on train and val stopped before the tolerance")
    linear = space.to_classifier(refit.weights, refit.bias)
    return FindingPath(
        fits=tuple(fits.values()),
        chosen=fits[tuple(strengths)],
        val_scores=val_scores,
        classifier=FindingClassifier(linear.weights, linear.bias),
        l2_of_finding=tuple(strengths.tolist()),
    )


def choose_strengths(
    evaluate: Callable[[np.ndarray], np.ndarray], groups: Sequence[Group], labels: np.ndarray, objective: str
) -> np.ndarray:
    """Returns the best λ of each finding, [K]. All groups search in step, so each fit serves all of them.

    Args:
        evaluate: returns the scores on val [N, K] for one λ for each finding, [K].
        groups: each finding is in one group.
        labels: labels of val, int8 [N, K].
        objective: the metric of a group that is the best at the chosen λ.

    Raises:
        DataError: the objective is undefined on val for all groups.
    """
    undecided = np.full(labels.shape, 0.5)
    searches = {
        group: bisection() for group in groups if objective in _metrics(undecided, labels, group.judged)
    }
    if not searches:
        raise DataError(
            f"{objective} is undefined on split 'val', because no finding has positives and negatives there, "
            "so no probe strength can be chosen; change the split or set probe.l2"
        )
    at = {group: next(search) for group, search in searches.items()}
    while searches:
        scores = evaluate(_spread(at, labels.shape[1]))
        for group, search in list(searches.items()):
            metrics = _metrics(scores, labels, group.judged)
            value = metrics[objective]
            rank = (-value if objective in LOWER_IS_BETTER else value, -metrics["nll"])
            try:
                at[group] = search.send(rank)
            except StopIteration as best:
                at[group] = best.value
                del searches[group]
    return _spread(at, labels.shape[1])


def _spread(at: Mapping[Group, float], num_findings: int) -> np.ndarray:
    """Returns the λ of each finding [K]. A finding without a group gets the median."""
    strengths = np.full(num_findings, _middle(np.array(list(at.values()))))
    for group, strength in at.items():
        strengths[list(group.findings)] = strength
    return strengths


def _middle(strengths: np.ndarray) -> float:
    """Returns the median, or the stronger of the two middle values."""
    return float(np.sort(strengths)[len(strengths) // 2])


def _metrics(scores: np.ndarray, labels: np.ndarray, judged: Sequence[int]) -> dict[str, float]:
    """Returns the mean of each metric over the judged findings that are defined."""
    columns = np.array([k for k in judged if is_defined(labels[:, [k]])[0]], dtype=np.int64)
    if not len(columns):
        return {}
    ones = np.ones((len(labels), 1), np.float32)
    by_finding = metrics_by_finding(scores[:, columns], labels[:, columns], ones, with_ece=False)
    return {MACRO_NAMES[name]: float(each.mean()) for name, each in by_finding.items()}


def _warn(solver: FindingSolver, labels: np.ndarray, names: Sequence[str]) -> None:
    for k in np.flatnonzero(~solver.is_learnable).tolist():
        missing = "positives" if not (labels[:, k] == 1).any() else "negatives"
        logger.warning(
            "split 'train' has 0 %s for finding '%s', so no probe can learn it: its score is its prior, %.3g",
            missing,
            names[k],
            solver.prior[k],
        )
