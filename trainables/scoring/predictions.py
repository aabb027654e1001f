"""Stores the probabilities of every system, without labels or patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.config import Split, Task
from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.scoring.tasks import TASKS

FILE = "predictions.parquet"


class Scores(NamedTuple):
    """Predictions of a system on a split: `image_ids` str [N], `scores` float64 [N, K]."""

    image_ids: np.ndarray
    scores: np.ndarray


Predictions = Mapping[tuple[Split, str], Scores]
"""(split, system) → scores. A system is for example `zero_shot_unseen` or `few_shot_8_joint#3`."""


def image_ids_of(dataset: Dataset, split: Split) -> np.ndarray:
    """Returns the image ids of a split in the order of the records, str [N]."""
    return np.array([dataset.records[i].image_id for i in dataset.indices(split)], dtype=str)


def write_predictions(path: Path, predictions: Predictions, task: Task = "multiclass") -> None:
    """Writes a table atomically, with columns image_id, split, system and scores (K probabilities).

    Raises:
        ValueError: scores are not probabilities of the task, or a system scores an image twice in one split.
    """
    for (split, system), scores in predictions.items():
        _check(scores, f"{split}/{system}", task)
    tables = [_to_table(split, system, scores) for (split, system), scores in predictions.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    pq.write_table(pa.concat_tables(tables), aside)
    aside.replace(path)


def read_predictions(path: Path, *, split: Split | None = None) -> dict[tuple[Split, str], Scores]:
    """Reads the predictions on one split or on all splits, in the order in which they were written.

    Systems that score the same images in the same order share the array of ids.

    Raises:
        DataError: the file is missing, or is not a table of predictions.
    """
    try:
        table = pq.read_table(path, filters=None if split is None else pc.field("split") == split)
        predictions: dict[tuple[Split, str], Scores] = {}
        known, image_ids = None, np.empty(0, str)
        for of_split, system, part in _parts(table):
            column = part["image_id"]
            if known is None or not column.equals(known):
                known, image_ids = column, np.array(column.to_pylist(), dtype=str)
            predictions[of_split, system] = Scores(image_ids, _to_scores(part["scores"]))
        return predictions
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: no readable predictions ({error}); run the trial again") from error


def _parts(table: pa.Table) -> Iterator[tuple[Split, str, pa.Table]]:
    """Yields split, system and rows for each block of consecutive rows with the same split and system."""
    names = [table[column].combine_chunks().dictionary_encode() for column in ("split", "system")]
    codes = np.stack([name.indices.to_numpy() for name in names])
    starts = np.flatnonzero((np.diff(codes, prepend=-1) != 0).any(axis=0)).tolist()
    for start, stop in pairwise([*starts, table.num_rows]):
        of_split, system = (name[start].as_py() for name in names)
        yield of_split, system, table.slice(start, stop - start)


def _to_table(split: str, system: str, predicted: Scores) -> pa.Table:
    num_images, num_classes = predicted.scores.shape
    values = np.ascontiguousarray(predicted.scores, np.float64).ravel()
    offsets = np.arange(0, values.size + 1, num_classes, dtype=np.int32)
    columns = {
        "image_id": pa.array(predicted.image_ids.tolist(), pa.string()),
        "split": pa.array([split] * num_images, pa.string()),
        "system": pa.array([system] * num_images, pa.string()),
        "scores": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
    }
    return pa.table(columns)


def _to_scores(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def _check(predicted: Scores, where: str, task: Task) -> None:
    image_ids, scores = predicted
    if scores.ndim != 2 or len(scores) != len(image_ids):
        raise ValueError(f"{where}: scores {scores.shape} for {len(image_ids)} images, expected [N, K]")
    if len(set(image_ids.tolist())) != len(image_ids):
        raise ValueError(f"{where}: an image is scored twice")
    is_sane = np.isfinite(scores).all() and scores.min(initial=0) >= 0
    if not is_sane or not TASKS[task].are_probabilities(scores):
        raise ValueError(f"{where}: scores are not probabilities ({TASKS[task].probabilities})")
