from collections import Counter

import numpy as np
import pytest

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.data.phantom_findings import FINDINGS, NORMAL, lesions_of, render, report
from trainables.data.records import NO_FINDING
from trainables.data.text import captions_for

SEED = 300
SMALL = PhantomConfig(num_train=60, num_val=30, num_test=30)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DataConfig(dataset="phantom_findings", phantom=SMALL, captions="report"))


def test_it_is_a_multi_label_data_set_with_no_finding_last(dataset):
    assert dataset.task == "multilabel"
    assert dataset.classes == (*FINDINGS, NO_FINDING)
    assert len(dataset.indices("train")) == 60


def test_labels_are_what_is_drawn(dataset):
    labels = dataset.label_matrix(dataset.indices("train"))
    for i, row in zip(dataset.indices("train"), labels, strict=True):
        index = int(dataset.records[i].image_id.rpartition("-")[2])
        present = {name for name, value in zip(dataset.classes, row, strict=True) if value == 1}
        assert present == (set(lesions_of(0, index)) or {NO_FINDING})
    assert (labels >= 0).all()


def test_captions_are_reports_of_what_is_drawn(dataset):
    train = dataset.indices("train")
    captions = captions_for(dataset, train, kind="report", seed=0, epoch=0)
    for i, caption in zip(train, captions, strict=True):
        assert all(part.rstrip(".") in dataset.records[i].report_text for part in caption.split(". "))


def test_a_report_has_a_sentence_for_each_finding_with_its_side():
    for index in range(200):
        lesions, text = lesions_of(SEED, index), report(SEED, index, lesions_of(SEED, index))
        if not lesions:
            assert text in NORMAL
            continue
        assert text.count(".") == len(lesions)
        sided = [lesion.side for name, lesion in lesions.items() if name not in ("Cardiomegaly", "Fibrosis")]
        for side in ("right", "left"):
            assert text.lower().count(f"{side} ") + text.lower().count(f"{side}.") == sided.count(side)


def test_findings_are_as_frequent_as_stated_and_independent():
    drawn = [set(lesions_of(SEED, index)) for index in range(4000)]
    counts = Counter(name for present in drawn for name in present)
    for name, finding in FINDINGS.items():
        assert counts[name] / 4000 == pytest.approx(finding.probability, abs=0.03)  # 4 standard errors
    table = np.array([[name in present for name in FINDINGS] for present in drawn])
    correlation = np.corrcoef(table.T) - np.eye(len(FINDINGS))
    assert np.abs(correlation).max() < 0.07  # 4.4 standard errors; 28 pairs


def test_more_train_images_leave_the_others_as_they_were():
    large = SMALL.model_copy(update={"num_train": 120})
    a, b = (
        load_dataset(DataConfig(dataset="phantom_findings", phantom=phantom)) for phantom in (SMALL, large)
    )
    assert [a.records[i] for i in a.indices("val")] == [b.records[i] for i in b.indices("val")]


def test_a_phantom_is_a_pure_function_of_seed_and_index():
    np.testing.assert_array_equal(render(SEED, 7).image, render(SEED, 7).image)
    images = [render(SEED, index).image for index in range(20)]
    assert len({image.tobytes() for image in images}) == 20


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_can_be_seen(name):
    """The finding alone changes pixels, on the side that the report names."""
    alone = [index for index in range(3000) if list(lesions_of(SEED, index)) == [name]][:5]
    assert len(alone) == 5
    for index in alone:
        film, healthy = render(SEED, index), render(SEED, index, lesion_amplitude=0)
        changed = np.abs(film.image.astype(int) - healthy.image)
        assert (changed > 8).sum() > 15
        if name in ("Atelectasis", "Consolidation", "Effusion", "Nodule", "Pneumothorax"):
            middle = np.arange(128) < np.average(np.arange(128), weights=healthy.lung_mask.sum(0))
            right, left = changed[:, middle].sum(), changed[:, ~middle].sum()
            assert (right > left) == (film.lesions[name].side == "right")
