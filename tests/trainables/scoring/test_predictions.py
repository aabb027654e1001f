from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainables.data.records import Dataset, ImageRecord
from trainables.errors import DataError
from trainables.scoring.judge_val import judge
from trainables.scoring.predictions import Scores, read_predictions, write_predictions


def scores(num_images: int = 4) -> Scores:
    probabilities = np.random.default_rng(num_images).dirichlet([1, 1, 1], size=num_images)
    return Scores(np.array([f"image {i}" for i in range(num_images)]), probabilities)


def test_predictions_are_read_back_to_the_bit(tmp_path: Path) -> None:
    written = {
        ("val", "probe_joint"): scores(4),
        ("test", "probe_joint"): scores(6),
        ("test", "control_prior"): scores(6),
    }
    write_predictions(tmp_path / "results" / "predictions.parquet", written)
    read = read_predictions(tmp_path / "results" / "predictions.parquet")
    assert list(read) == list(written)
    for key, (image_ids, values) in written.items():
        assert (read[key].image_ids == image_ids).all()
        assert (read[key].scores == values).all()


def test_the_file_holds_neither_labels_nor_patients(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", {("val", "probe_joint"): scores()})
    assert pq.read_schema(tmp_path / "p.parquet").names == ["image_id", "split", "system", "scores"]


@pytest.mark.parametrize("spoil", [lambda s: s * 1.1, lambda s: s - 0.5, lambda s: s * np.nan])
def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, spoil) -> None:
    image_ids, values = scores()
    with pytest.raises(ValueError, match="val/probe_joint: scores are not probabilities"):
        write_predictions(tmp_path / "p.parquet", {("val", "probe_joint"): Scores(image_ids, spoil(values))})
    assert not (tmp_path / "p.parquet").exists()


def test_an_image_scored_twice_is_refused(tmp_path: Path) -> None:
    twice = Scores(np.array(["same"] * 4), scores().scores)
    with pytest.raises(ValueError, match="scored twice"):
        write_predictions(tmp_path / "p.parquet", {("val", "probe_joint"): twice})


@pytest.mark.parametrize("content", [None, b"", b"not a parquet file"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"p\.parquet: no readable predictions"):
        read_predictions(tmp_path / "p.parquet")


def test_val_is_judged_with_intervals_and_gaps_are_said(caplog, tmp_path: Path) -> None:
    classes = ("A", "B", "C")
    records = tuple(
        ImageRecord(
            f"image {i}", f"patient {i}", "val", {name: int(c == i % 2) for c, name in enumerate(classes)}
        )
        for i in range(4)
    )
    dataset = Dataset(
        "toy", classes, records, "content", "fingerprint", lambda record: np.zeros((2, 2), np.uint8)
    )
    predictions = {("val", "probe_joint"): scores(4), ("test", "probe_joint"): scores(6)}
    metrics = judge(predictions, dataset, tmp_path)
    truth = np.arange(4) % 2
    assert metrics["val/probe_joint/accuracy"] == (scores(4).scores.argmax(1) == truth).mean()
    assert metrics["val/probe_joint/accuracy_low"] <= metrics["val/probe_joint/accuracy"]
    assert not any(key.startswith("test/") for key in metrics)
    assert "0 images of class 'C'" in caplog.text
