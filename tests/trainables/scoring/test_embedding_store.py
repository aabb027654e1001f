from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainables.errors import DataError
from trainables.scoring.embedding_store import EmbeddingTable, read_embeddings, store_embeddings


def table(num_images: int = 7) -> EmbeddingTable:
    rng = np.random.default_rng(0)
    return EmbeddingTable(
        image_ids=np.array([f"image {i}" for i in range(num_images)]),
        pooled=rng.normal(size=(num_images, 12)).astype(np.float32),
        joint=rng.normal(size=(num_images, 5)).astype(np.float32),
    )


def test_what_is_stored_is_read_back_to_the_bit(tmp_path: Path) -> None:
    stored = store_embeddings(tmp_path / "key", table)
    for name in ("image_ids", "pooled", "joint"):
        assert (getattr(stored, name) == getattr(table(), name)).all()
    assert stored.pooled.dtype == np.float32
    assert stored.features("joint").shape == (7, 5)


def test_embeddings_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> EmbeddingTable:
        calls.append(1)
        return table()

    found = [store_embeddings(tmp_path / "key", compute) for _ in range(3)]
    assert len(calls) == 1
    assert [each.is_reused for each in found] == [False, True, True]


def test_the_store_holds_no_labels(tmp_path: Path) -> None:
    store_embeddings(tmp_path / "key", table)
    assert pq.read_schema(tmp_path / "key" / "embeddings.parquet").names == ["image_id", "pooled", "joint"]


def test_an_interrupted_embedding_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> EmbeddingTable:
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        store_embeddings(tmp_path / "key", fail)
    with pytest.raises(DataError, match="no finished embeddings"):
        read_embeddings(tmp_path / "key")


def test_an_embedding_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    broken = table()
    broken.joint[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="joint embedding of image 3"):
        store_embeddings(tmp_path / "key", lambda: broken)
    assert not (tmp_path / "key").exists()


def test_rows_follow_the_images_asked_for() -> None:
    rows = table().rows_of(["image 4", "image 0"])
    assert rows.tolist() == [4, 0]
    with pytest.raises(DataError, match="1 of 2 images have no embedding, first 'image 9'"):
        table().rows_of(["image 4", "image 9"])
