from dataclasses import dataclass, replace

import numpy as np
import pytest

from trainables.config import Split
from trainables.data.records import Dataset, ImageRecord
from trainables.scoring.controls import attributes, borders, control_scores, thumbnails
from trainables.scoring.finding_metrics import point_finding_metrics
from trainables.scoring.metrics import point_metrics

pytestmark = pytest.mark.kernels

CLASSES = ("COVID-19", "Non-COVID", "Normal")
SIZE = 50
SPLITS: list[Split] = ["train"] * 120 + ["val"] * 45 + ["test"] * 60


@dataclass
class Pixels:
    """Images in memory, with the one method of an image cache."""

    values: np.ndarray

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


def dataset_of(classes: np.ndarray, *, sources: tuple[str | None, ...] = (None, None, None)) -> Dataset:
    """One image a patient; test labels withheld."""
    records = tuple(
        ImageRecord(
            image_id=f"image {i:03}",
            patient_id=f"patient {i:03}",
            split=split,
            labels={} if split == "test" else {name: int(c == k) for c, name in enumerate(CLASSES)},
            source=sources[k],
        )
        for i, (split, k) in enumerate(zip(SPLITS, classes, strict=True))
    )
    return Dataset(
        "toy", CLASSES, records, "content", "fingerprint", lambda record: np.zeros((2, 2), np.uint8)
    )


@pytest.fixture
def classes() -> np.ndarray:
    return np.random.default_rng(0).choice(3, size=len(SPLITS), p=(0.5, 0.3, 0.2))


@pytest.fixture
def smooth() -> np.ndarray:
    """Images without a class in them: each its own smooth pattern and some noise."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(40, 215, size=(len(SPLITS), 5, 5))
    grown = coarse.repeat(10, axis=1).repeat(10, axis=2)
    return (grown + rng.normal(0, 8, size=grown.shape)).clip(0, 255).astype(np.uint8)


def scores_by_control(
    dataset: Dataset, images: np.ndarray, classes: np.ndarray, metric: str
) -> dict[str, float]:
    predictions = control_scores(dataset, Pixels(images))
    test = dataset.indices("test")
    return {
        system: point_metrics(predicted.scores, classes[test])[metric]
        for (split, system), predicted in predictions.items()
        if split == "test"
    }


def test_prior_predicts_the_class_frequencies(classes, smooth) -> None:
    predictions = control_scores(dataset_of(classes), Pixels(smooth))
    seen = classes[:120]
    assert predictions["val", "control_prior"].scores[0] == pytest.approx(np.bincount(seen) / 120)
    seen = classes[:165]
    assert predictions["test", "control_prior"].scores[7] == pytest.approx(np.bincount(seen) / 165)
    assert predictions["test", "control_prior"].image_ids.tolist() == [f"image {i}" for i in range(165, 225)]


def test_images_without_a_class_leave_every_control_at_chance(classes, smooth) -> None:
    aurocs = scores_by_control(dataset_of(classes), smooth, classes, "macro_auroc")
    assert set(aurocs) == {"control_prior", "control_thumbnail", "control_border"}
    # The standard error of an AUROC of 60 images is about .08.
    assert all(abs(value - 0.5) < 0.2 for value in aurocs.values())


def test_a_class_written_into_the_border_is_seen_there(classes, smooth) -> None:
    marked = smooth.copy()
    for image, k in zip(marked, classes, strict=True):
        image[:2, 10 * k : 10 * k + 10] = 255  # inside the outer 5 % of 50 px
    aurocs = scores_by_control(dataset_of(classes), marked, classes, "macro_auroc")
    assert aurocs["control_border"] > 0.95
    assert aurocs["control_prior"] == 0.5


def test_a_class_in_the_coarse_brightness_is_seen_by_the_thumbnail_alone(classes, smooth) -> None:
    shaded = smooth.astype(int)
    for image, k in zip(shaded, classes, strict=True):
        image[15:35, 10 * k + 8 : 10 * k + 18] += 70
    aurocs = scores_by_control(
        dataset_of(classes), shaded.clip(0, 255).astype(np.uint8), classes, "macro_auroc"
    )
    assert aurocs["control_thumbnail"] > 0.85
    assert aurocs["control_border"] < 0.7


def test_borders_see_the_border_alone() -> None:
    image = np.full((1, 40, 40), 200, np.uint8)
    image[:, 2:-2, 2:-2] = 0
    assert borders(image) == pytest.approx(np.full((1, 128), 200 / 255))
    assert borders(255 - image).max() == pytest.approx(55 / 255)  # a bright inside does not reach it
    assert thumbnails(image).shape == (1, 64)


FINDINGS = ("Effusion", "Mass", "No Finding")


def of_findings(labels: np.ndarray) -> Dataset:
    """Effusions are more frequent in AP images and in the old; some labels, views and ages are unknown."""
    rng = np.random.default_rng(3)
    records = tuple(
        ImageRecord(
            image_id=f"image {i:03}",
            patient_id=f"patient {i:03}",
            split=split,
            labels={} if split == "test" else dict(zip(FINDINGS, row.tolist(), strict=True)),
            view=None if i % 17 == 0 else ("AP" if row[0] == 1 and rng.random() < 0.8 else "PA"),
            sex="F" if rng.random() < 0.5 else "M",
            age=None if i % 13 == 0 else 50 + 15 * int(row[0]) + float(rng.normal(0, 10)),
        )
        for i, (split, row) in enumerate(zip(SPLITS, labels, strict=True))
    )
    return replace(
        dataset_of(np.zeros(len(SPLITS), int)), classes=FINDINGS, records=records, task="multilabel"
    )


@pytest.fixture
def labels() -> np.ndarray:
    rng = np.random.default_rng(2)
    labels = (rng.random((len(SPLITS), 3)) < (0.4, 0.2, 0.3)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.05] = -1
    return labels


def test_the_prior_of_findings_counts_known_labels_alone(labels, smooth) -> None:
    predictions = control_scores(of_findings(labels), Pixels(smooth))
    of_val, of_test = (
        [((column == 1).sum() + 1) / ((column >= 0).sum() + 2) for column in seen.T]
        for seen in (labels[:120], labels[:165])
    )
    assert predictions["val", "control_prior"].scores[3] == pytest.approx(of_val)
    assert predictions["test", "control_prior"].scores[3] == pytest.approx(of_test)


def test_each_control_scores_findings_by_what_it_sees(labels, smooth) -> None:
    marked = smooth.copy()
    marked[labels[:, 1] == 1, :2, :20] = 255  # Mass is written into the border
    predictions = control_scores(of_findings(labels), Pixels(marked))
    test = labels[165:]

    def auroc(system: str, k: int) -> float:
        scores = predictions["test", system].scores
        assert scores.shape == test.shape
        alone = np.stack([scores[:, k], scores[:, 2]], axis=1)
        return point_finding_metrics(alone, np.stack([test[:, k], test[:, 2]], axis=1))["macro_auroc"]

    assert auroc("control_border", 1) > 0.9
    assert auroc("control_attributes", 0) > 0.75
    assert abs(auroc("control_attributes", 1) - 0.5) < 0.25


def test_attributes_are_read_where_two_of_them_vary(labels, classes) -> None:
    dataset = of_findings(labels)
    features = attributes(dataset)
    assert features is not None
    views, sexes, ages = features[:, :2], features[:, 2:4], features[:, 4:]
    assert (views.sum(1) == [record.view is not None for record in dataset.records]).all()
    assert (sexes.sum(1) == 1).all()
    unknown = np.array([record.age is None for record in dataset.records])
    assert (ages[unknown] == [0, 1]).all()
    assert np.abs(ages[~unknown, 0]).max() > 10
    same_sex = replace(dataset, records=tuple(replace(record, sex="F") for record in dataset.records))
    assert attributes(same_sex) is not None
    only_age = tuple(replace(record, sex=None, view="PA") for record in dataset.records)
    assert attributes(replace(dataset, records=only_age)) is None
    assert attributes(dataset_of(classes)) is None
