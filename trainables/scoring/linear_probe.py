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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.config import Features, ProbeConfig, Split
from trainables.data.records import Dataset
from trainables.errors import DataError, TrainingDiverged
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.logistic import FeatureSpace, LinearClassifier, PathSolver
from trainables.scoring.metric_names import LOWER_IS_BETTER, PATH_METRICS, metric_key, probe_name
from trainables.scoring.metrics import point_metrics
from trainables.scoring.predictions import Scores, image_ids_of

logger = logging.getLogger(__name__)
STEPS_PER_DECADE = 8
STRENGTHS = tuple(10.0 ** (step / STEPS_PER_DECADE - 6) for step in range(97))
COARSE_STEP = 16
OBJECTIVE = "macro_auroc"


class Examples(NamedTuple):
    """Embeddings with labels: `embeddings` float [N, D], `classes` int64 [N]."""

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


def probe_embeddings(
    table: EmbeddingTable, dataset: Dataset, config: ProbeConfig
) -> dict[Features, ProbePath]:
    """Fits a path on each kind of features in `config.features`.

    Args:
        table: embeddings that include all train and val images.
        dataset: splits and classes of the images. Test labels are not read.
        config: settings of the probe. A fixed `l2` needs only one fit.

    Raises:
        TrainingDiverged: the embeddings are constant or not finite.
    """
    rows = [table.rows_of(image_ids_of(dataset, split)) for split in ("train", "val")]
    classes = [dataset.class_indices(dataset.indices(split)) for split in ("train", "val")]
    paths: dict[Features, ProbePath] = {}
    for name in config.features:
        features = table.features(name)
        check_embeddings(features, name)
        examples = [Examples(features[r], c) for r, c in zip(rows, classes, strict=True)]
        paths[name] = fit_path(*examples, class_names=dataset.classes, l2=config.l2)
        if paths[name].num_unconverged:
            counts = paths[name].num_unconverged, len(paths[name].fits)
            logger.warning("probe on %s: %d of %d fits stopped before the tolerance", name, *counts)
    return paths


def check_embeddings(features: np.ndarray, name: str) -> None:
    """Checks that a probe can learn from embeddings [N, D].

    Raises:
        TrainingDiverged: embeddings are not finite, or differ only by the rounding of float32.
    """
    variance = features.var(axis=0, dtype=np.float64).sum()
    squares = np.square(features, dtype=np.float64).sum(axis=1).mean()
    if not variance > 1e-7 * squares:
        problem = "all images have the same embedding" if np.isfinite(squares) else "some are not finite"
        raise TrainingDiverged(
            f"{name} embeddings: {problem}; if the encoder was trained, its training diverged: lower "
            "optim.learning_rate"
        )


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
    ranks: dict[int, tuple[float, float]] = {}

    def visit(step: int) -> None:
        if 0 <= step < len(STRENGTHS):
            ranks[step] = evaluate(STRENGTHS[step])

    def best() -> int:
        return max(ranks, key=lambda step: (ranks[step], step))

    for step in range(len(STRENGTHS) - 1, -1, -COARSE_STEP):  # the strongest λ is the easiest fit
        visit(step)
    distance = COARSE_STEP
    while distance > 1:
        distance //= 2
        peak = best()
        visit(peak + distance)
        visit(peak - distance)
    return STRENGTHS[best()]


def probe_predictions(
    paths: Mapping[Features, ProbePath],
    table: EmbeddingTable,
    dataset: Dataset,
    splits: Sequence[Split] = ("val", "test"),
) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions of each probe: on val from the fit on train, on test from the refit on both."""
    predictions: dict[tuple[Split, str], Scores] = {}
    for features, path in paths.items():
        for split in splits:
            ids = image_ids_of(dataset, split)
            of_refit = path.scores(table.features(features)[table.rows_of(ids)])
            predictions[split, probe_name(features)] = Scores(
                ids, path.val_scores if split == "val" else of_refit
            )
    return predictions


def strengths(paths: Mapping[Features, ProbePath]) -> dict[str, float]:
    """Returns the chosen λ of each path as the metric `val/probe_<features>/l2`."""
    return {metric_key("val", probe_name(features), "l2"): path.chosen.l2 for features, path in paths.items()}


def write_probe_path(path: Path, paths: Mapping[Features, ProbePath]) -> None:
    """Writes each fit of each path with its metrics on val. An undefined metric is null."""
    columns = {"features": pa.string(), "l2": pa.float64(), "fit_index": pa.int64()}
    columns |= dict.fromkeys(PATH_METRICS, pa.float64())
    columns |= {"is_chosen": pa.bool_(), "is_converged": pa.bool_()}
    rows = [
        (features, fit.l2, index, *map(fit.metrics.get, PATH_METRICS), fit is tried.chosen, fit.is_converged)
        for features, tried in paths.items()
        for index, fit in enumerate(tried.fits)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(columns)
    pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema), path)


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
