"""Few-shot probes of findings: who is drawn, and what is fitted."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trainables.config import ProbeConfig, Split
from trainables.data.records import Dataset, ImageRecord
from trainables.errors import DataError
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.finding_metrics import point_finding_metrics
from trainables.scoring.finding_shots import (
    check_finding_shots,
    draw_finding_shots,
    finding_shot_predictions,
    fit_finding_shots,
)

pytestmark = pytest.mark.kernels

NAMES = ("Effusion", "Hernia", "Mass", "No Finding")
OF_TRAIN: list[Split] = ["train"] * 90
OF_VAL: list[Split] = ["val"] * 60
OF_TEST: list[Split] = ["test"] * 30
SPLITS = (*OF_TRAIN, *OF_VAL, *OF_TEST)
WIDTH = 10


def labelled() -> tuple[np.ndarray, np.ndarray]:
    """Labels int8 [180, 4], some unknown; no Mass in train. Embeddings float32 [180, 10] that show them."""
    rng = np.random.default_rng(0)
    labels = (rng.random((180, 4)) < (0.4, 0.15, 0.3, 0.3)).astype(np.int8)
    embeddings = rng.normal(size=(180, WIDTH)) + 2.5 * labels @ np.eye(4, WIDTH)
    labels[rng.random(labels.shape) < 0.1] = -1
    labels[:90, 2] = np.minimum(labels[:90, 2], 0)
    return labels, embeddings.astype(np.float32)


def dataset_of(labels: np.ndarray, *, images_of_patient: int = 1) -> Dataset:
    records = tuple(
        ImageRecord(
            image_id=f"image {i:03}",
            patient_id=f"{split} {i // images_of_patient}",
            split=split,
            labels={} if split == "test" else dict(zip(NAMES, row.tolist(), strict=True)),
        )
        for i, (split, row) in enumerate(zip(SPLITS, labels, strict=True))
    )
    return Dataset(
        "toy",
        NAMES,
        records,
        "content",
        "fingerprint",
        lambda record: np.zeros((2, 2), np.uint8),
        "multilabel",
    )


def test_shots_are_known_train_labels_of_different_patients() -> None:
    labels, _ = labelled()
    dataset = dataset_of(labels, images_of_patient=2)
    shots = draw_finding_shots(dataset, 5, seed=0, draw=1)
    assert shots.shape == (5, 2, 3)  # Mass has no positive in train
    assert set(shots.ravel()) <= set(dataset.indices("train"))
    for place, k in enumerate((0, 1, 3)):
        assert (labels[shots[:, 0, place], k] == 0).all()
        assert (labels[shots[:, 1, place], k] == 1).all()
        assert len(set(dataset.patients(shots[:, :, place].ravel()))) == 10


def test_a_patient_gives_a_second_image_only_where_no_other_is_left() -> None:
    labels = np.zeros((180, 4), np.int8)
    labels[:4, 0] = 1  # four positives of two patients
    labels[0, 1] = labels[0, 3] = 1
    dataset = dataset_of(labels, images_of_patient=2)
    with pytest.raises(DataError, match=r"probe\.shots=4: .* positives of finding 'Hernia' .* is 1; use 1"):
        draw_finding_shots(dataset, 4, seed=0, draw=0)
    labels[:, (1, 3)] = -1
    for draw in range(5):
        shots = draw_finding_shots(dataset_of(labels, images_of_patient=2), 4, seed=0, draw=draw)
        positives = shots[:, 1, 0]
        assert sorted(positives.tolist()) == [0, 1, 2, 3]
        assert len({i // 2 for i in positives[:2].tolist()}) == 2
        assert len({i // 2 for i in shots[:, 0, 0].tolist()}) == 4


def test_draws_differ_repeat_and_grow() -> None:
    dataset = dataset_of(labelled()[0])
    first = draw_finding_shots(dataset, 6, seed=0, draw=0)
    assert (first == draw_finding_shots(dataset, 6, seed=0, draw=0)).all()
    assert (first != draw_finding_shots(dataset, 6, seed=0, draw=1)).any()
    assert (first != draw_finding_shots(dataset, 6, seed=1, draw=0)).any()
    assert (first[:2] == draw_finding_shots(dataset, 2, seed=0, draw=0)).all()


def test_too_many_shots_are_refused_before_anything_is_fitted() -> None:
    dataset = dataset_of(labelled()[0])
    check_finding_shots(dataset, ProbeConfig(shots=(1, 4)))
    with pytest.raises(DataError, match=r"probe\.shots=64"):
        check_finding_shots(dataset, ProbeConfig(shots=(1, 64)))


def test_a_probe_of_a_finding_is_scikit_learns_on_its_own_shots() -> None:
    labels, embeddings = labelled()
    shots = draw_finding_shots(dataset_of(labels), 4, seed=0, draw=0)
    classifier = fit_finding_shots(embeddings[shots], l2=0.5, is_drawn=np.array([True, True, False, True]))
    for place, k in enumerate((0, 1, 3)):
        flat = embeddings[shots[:, :, place].ravel()].astype(np.float64)
        centred = flat - flat.mean(0)
        scale = np.sqrt((centred**2).mean())
        theirs = LogisticRegression(C=1 / 0.5, tol=1e-8).fit(centred / scale, np.tile([0, 1], 4))
        expected = theirs.predict_proba((embeddings - flat.mean(0)) / scale)[:, 1]
        np.testing.assert_allclose(classifier.scores(embeddings)[:, k], expected, atol=2e-3)
    assert (classifier.scores(embeddings)[:, 2] == 0.5).all()


def test_more_shots_score_higher_and_findings_without_shots_are_told(caplog) -> None:
    labels, embeddings = labelled()
    dataset = dataset_of(labels)
    ids = np.array([record.image_id for record in dataset.records])
    table = EmbeddingTable(ids, pooled=embeddings, joint=embeddings)
    config = ProbeConfig(shots=(1, 8), num_draws=3, features=("joint",))
    with caplog.at_level(logging.WARNING):
        predictions = finding_shot_predictions(table, dataset, config)
    assert "'Mass', so its few-shot scores are 0.5" in caplog.text
    assert set(predictions) == {
        (split, f"few_shot_{k}_joint#{draw}")
        for split in ("val", "test")
        for k in (1, 8)
        for draw in range(3)
    }
    of_val = dataset.label_matrix(dataset.indices("val"))
    one, many = (
        np.mean(
            [
                point_finding_metrics(predictions["val", f"few_shot_{k}_joint#{draw}"].scores, of_val)[
                    "macro_auroc"
                ]
                for draw in range(3)
            ]
        )
        for k in (1, 8)
    )
    assert many > one + 0.03
