"""Few-shot probes: who is drawn, what is tuned on what, and how draws become one number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from trainables.config import DataConfig, PhantomConfig, ProbeConfig
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.errors import DataError
from trainables.scoring.bootstrap import over_draws
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.few_shot import (
    ONE_SHOT_L2,
    STRENGTHS,
    choose_strength,
    draw_shots,
    few_shot_predictions,
    fit_shots,
)
from trainables.scoring.judge_arms import evaluate_arms, open_cases
from trainables.scoring.judge_val import judge
from trainables.scoring.metrics import point_metrics
from trainables.scoring.predictions import write_predictions
from trainables.scoring.test_predictions import ScoredTrial

pytestmark = pytest.mark.kernels

WIDTH = 12


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(DataConfig(phantom=PhantomConfig(num_train=90, num_val=30, num_test=30)))


@pytest.fixture(scope="module")
def opened() -> Dataset:
    config = DataConfig(phantom=PhantomConfig(num_train=90, num_val=30, num_test=30))
    return load_dataset(config, with_test_labels=True)


@pytest.fixture(scope="module")
def table(opened: Dataset) -> EmbeddingTable:
    """Embeddings in which classes overlap: more shots help."""
    rng = np.random.default_rng(0)
    classes = opened.class_indices(np.arange(len(opened.records)))
    joint = rng.normal(size=(len(classes), WIDTH)) + 1.5 * np.eye(3, WIDTH)[classes]
    image_ids = np.array([record.image_id for record in opened.records])
    return EmbeddingTable(image_ids, joint.astype(np.float32) * 7 + 3, joint.astype(np.float32))


def shots_of(table: EmbeddingTable, dataset: Dataset, num_shots: int, draw: int) -> np.ndarray:
    places = draw_shots(dataset, num_shots, seed=0, draw=draw)
    ids = [dataset.records[i].image_id for i in places.ravel()]
    return table.joint[table.rows_of(ids)].reshape(*places.shape, -1)


def test_shots_are_train_images_of_different_patients(dataset: Dataset) -> None:
    shots = draw_shots(dataset, 8, seed=0, draw=2)
    assert shots.shape == (8, 3)
    assert set(shots.ravel()) <= set(dataset.indices("train"))
    assert len(set(dataset.patients(shots.ravel()))) == 24
    for k in range(3):
        assert set(dataset.class_indices(shots[:, k])) == {k}


def test_draws_differ_repeat_and_grow(dataset: Dataset) -> None:
    first = draw_shots(dataset, 8, seed=0, draw=0)
    assert (first == draw_shots(dataset, 8, seed=0, draw=0)).all()
    assert (first != draw_shots(dataset, 8, seed=0, draw=1)).any()
    assert (first != draw_shots(dataset, 8, seed=1, draw=0)).any()
    assert (first[:4] == draw_shots(dataset, 4, seed=0, draw=0)).all()


def test_a_patient_with_images_of_two_classes_gives_one_shot(dataset: Dataset) -> None:
    one_patient = [
        replace(record, patient_id=f"patient {i // 3}") if record.split == "train" else record
        for i, record in enumerate(dataset.records)
    ]
    shots = draw_shots(replace(dataset, records=tuple(one_patient)), 5, seed=0, draw=0)
    assert len({one_patient[i].patient_id for i in shots.ravel()}) == 15


def test_more_shots_than_patients_are_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"probe.shots=90: .* only 2\d shots .* 'COVID-19'.* or fewer"):
        draw_shots(dataset, 90, seed=0, draw=0)


def test_a_fit_is_scikit_learns_on_features_of_one_scale(table: EmbeddingTable, dataset: Dataset) -> None:
    shots = shots_of(table, dataset, 4, draw=0)
    flat, classes = shots.reshape(-1, WIDTH).astype(np.float64), np.tile(np.arange(3), 4)
    centred = flat - flat.mean(0)
    scaled = centred / np.sqrt((centred**2).mean())
    expected = LogisticRegression(C=1 / 0.5, tol=1e-8, max_iter=1000).fit(scaled, classes)
    found = fit_shots(shots, l2=0.5).scores(flat)
    np.testing.assert_allclose(found, expected.predict_proba(scaled), atol=2e-3)


def test_the_strength_is_chosen_on_held_out_shots_alone() -> None:
    assert choose_strength(np.zeros((1, 3, 4))) == ONE_SHOT_L2
    rng = np.random.default_rng(1)
    far_apart = 50 * np.eye(3, WIDTH) + rng.normal(size=(6, 3, WIDTH))
    noise = rng.normal(size=(30, 3, WIDTH))
    assert choose_strength(far_apart) < 1 < 100 <= choose_strength(noise) <= STRENGTHS[0]


def test_more_shots_score_higher_and_the_mean_over_draws_has_an_interval(
    table: EmbeddingTable, dataset: Dataset, tmp_path: Path
) -> None:
    config = ProbeConfig(shots=(1, 12), num_draws=3, features=("joint",))
    predictions = few_shot_predictions(table, dataset, config)
    assert {system for _, system in predictions} == {
        f"few_shot_{k}_joint#{draw}" for k in (1, 12) for draw in range(3)
    }
    metrics = judge(predictions, dataset, tmp_path)
    one, many = (metrics[f"val/few_shot_{k}_joint/macro_auroc"] for k in (1, 12))
    assert many > one + 0.05
    classes = dataset.class_indices(dataset.indices("val"))
    accuracies = [
        point_metrics(predictions["val", f"few_shot_1_joint#{draw}"].scores, classes)["accuracy"]
        for draw in range(3)
    ]
    assert metrics["val/few_shot_1_joint/accuracy"] == pytest.approx(np.mean(accuracies))
    low, high = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert metrics["val/few_shot_1_joint/accuracy_low"] == pytest.approx(low)
    assert metrics["val/few_shot_1_joint/accuracy_high"] == pytest.approx(high)


def test_val_labels_change_no_fit(table: EmbeddingTable, dataset: Dataset) -> None:
    config = ProbeConfig(shots=(3,), num_draws=2, features=("joint",))
    flipped = [
        replace(r, labels=dict(zip(r.labels, reversed(r.labels.values()), strict=True)))
        if r.split == "val"
        else r
        for r in dataset.records
    ]
    one = few_shot_predictions(table, dataset, config)
    other = few_shot_predictions(table, replace(dataset, records=tuple(flipped)), config)
    for key, scores in one.items():
        assert (scores.scores == other[key].scores).all()


def test_a_metric_that_one_draw_lacks_is_absent() -> None:
    assert set(over_draws([{"a": 1.0, "b": 0.0}, {"a": 2.0}])) == {"a"}


def test_on_test_draws_are_averaged_under_one_bootstrap(
    tmp_path: Path, table: EmbeddingTable, dataset: Dataset, opened: Dataset
) -> None:
    config = ProbeConfig(shots=(4,), num_draws=3, features=("joint",), l2=1.0)
    predictions = few_shot_predictions(table, dataset, config)
    write_predictions(tmp_path / "p.parquet", predictions)
    trial = ScoredTrial("trial", "arm", seed=0, fold=None, predictions=tmp_path / "p.parquet")
    result = evaluate_arms([trial], open_cases(opened), num_draws=50)
    classes = opened.class_indices(opened.indices("test"))
    accuracies = [
        point_metrics(scores.scores, classes)["accuracy"]
        for (split, _), scores in predictions.items()
        if split == "test"
    ]
    found = result.arms["trial"]
    assert found["test/few_shot_4_joint/accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["test/few_shot_4_joint/accuracy_low"] < np.mean(accuracies)
    assert not any("#" in key for key in found)
    assert result.paired == []
