"""Stores embeddings: one table for each data set, encoder and adapter. The tables contain no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.artifacts import build_once, fingerprint, is_whole
from trainables.config import Features
from trainables.errors import DataError

FILE = "embeddings.parquet"


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of N images: `image_ids` str [N], `pooled` float32 [N, P], `joint` float32 [N, D].

    The rows of `joint` have unit length. Classes come from the data set, which withholds the test labels.
    """

    image_ids: np.ndarray
    pooled: np.ndarray
    joint: np.ndarray
    is_reused: bool = False  # the table was already in the store

    def features(self, name: Features) -> np.ndarray:
        """Returns `pooled` [N, P] (before the projection) or `joint` [N, D]."""
        return self.joint if name == "joint" else self.pooled

    def rows_of(self, image_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Returns the row of each of these images, int64.

        Raises:
            DataError: the table lacks an image.
        """
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids.tolist())}
        missing = [image_id for image_id in image_ids if image_id not in row_of]
        if missing:
            raise DataError(
                f"embeddings: {len(missing)} of {len(image_ids)} images have no embedding, first "
                f"'{missing[0]}'; embed these images first"
            )
        return np.array([row_of[image_id] for image_id in image_ids], dtype=np.int64)


def embeddings_folder(store: Path, images: str, encoder: str, adapter: str | None) -> Path:
    """Returns the folder of embeddings, from fingerprints of images and encoder and an adapter's key."""
    return store / "embeddings" / fingerprint("embeddings", images, encoder, adapter)


def store_embeddings(
    folder: Path, compute: Callable[[], EmbeddingTable], *, about: dict[str, Any] | None = None
) -> EmbeddingTable:
    """Returns the table in `folder`. Computes a missing table once, while other callers wait.

    `about` is stored next to the table, as JSON.
    """
    is_reused = True

    def build(aside: Path) -> dict[str, Any] | None:
        nonlocal is_reused
        is_reused = False
        write_embeddings(aside, compute())
        return about

    return replace(read_embeddings(build_once(folder, build)), is_reused=is_reused)


def write_embeddings(folder: Path, table: EmbeddingTable) -> None:
    """Writes a table to `embeddings.parquet` in a folder.

    Raises:
        FloatingPointError: an embedding is not finite; the message names the first image.
    """
    for name in ("pooled", "joint"):
        bad = np.flatnonzero(~np.isfinite(getattr(table, name)).all(axis=1))
        if bad.size:
            first = table.image_ids[bad[0]]
            raise FloatingPointError(
                f"the {name} embedding of {first} is not finite ({bad.size} of {len(table.image_ids)} images)"
            )
    columns = {
        "image_id": pa.array(table.image_ids.tolist(), pa.string()),
        "pooled": _to_column(table.pooled),
        "joint": _to_column(table.joint),
    }
    # Random mantissas neither compress nor repeat, so plain pages are the fastest to write and read.
    pq.write_table(pa.table(columns), folder / FILE, compression="none", use_dictionary=False)


def read_embeddings(folder: Path) -> EmbeddingTable:
    """Reads a finished table, memory-mapped.

    Raises:
        DataError: the folder is missing or unfinished.
    """
    if not is_whole(folder):
        raise DataError(f"{folder}: has no finished embeddings; delete the folder and embed the images again")
    table = pq.read_table(folder / FILE, memory_map=True)
    return EmbeddingTable(
        image_ids=np.array(table["image_id"].to_pylist(), dtype=str),
        pooled=_to_matrix(table["pooled"]),
        joint=_to_matrix(table["joint"]),
    )


def _to_column(matrix: np.ndarray) -> pa.Array:
    values = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1])


def _to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    width = column.type.list_size
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
