"""The probes of a trial: one path of fits for each kind of features, their predictions and their table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.config import Features, ProbeConfig, Split, Task
from trainables.data.records import Dataset
from trainables.errors import TrainingDiverged
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.linear_probe import Examples, ProbePath
from trainables.scoring.metric_names import PATH_METRICS, metric_key, probe_name
from trainables.scoring.predictions import Scores, image_ids_of
from trainables.scoring.task_systems import SYSTEMS

logger = logging.getLogger(__name__)


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
    targets = [dataset.targets(dataset.indices(split)) for split in ("train", "val")]
    fit_path = SYSTEMS[dataset.task].fit_path
    paths: dict[Features, ProbePath] = {}
    for name in config.features:
        features = table.features(name)
        check_embeddings(features, name)
        train, val = (Examples(features[r], t) for r, t in zip(rows, targets, strict=True))
        paths[name] = fit_path(train, val, dataset.classes, config)
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


def write_probe_path(path: Path, paths: Mapping[Features, ProbePath], task: Task = "multiclass") -> None:
    """Writes each fit of each path with its metrics on val. An undefined metric is null."""
    columns = {"features": pa.string(), "l2": pa.float64(), "fit_index": pa.int64()}
    columns |= dict.fromkeys(PATH_METRICS[task], pa.float64())
    columns |= {"is_chosen": pa.bool_(), "is_converged": pa.bool_()}
    rows = [
        (
            features,
            fit.l2,
            index,
            *map(fit.metrics.get, PATH_METRICS[task]),
            fit is tried.chosen,
            fit.is_converged,
        )
        for features, tried in paths.items()
        for index, fit in enumerate(tried.fits)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(columns)
    pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema), path)
