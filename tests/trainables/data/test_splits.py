from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from trainables.config import DataConfig, PhantomConfig
from trainables.data.datasets import load_dataset
from trainables.data.splits import check_no_leak, permute_labels
from trainables.errors import DataError

PHANTOM = PhantomConfig(num_train=160, num_val=40, num_test=40)


def phantom(**options):
    return load_dataset(DataConfig(phantom=PHANTOM, **options), with_test_labels=True)


def test_folds_hold_every_image_out_once_and_no_patient_twice():
    folds = [phantom(num_folds=5, fold=fold) for fold in range(5)]
    held_out = np.concatenate([dataset.indices("test") for dataset in folds])
    assert sorted(held_out) == list(range(240))
    for dataset in folds:
        parts = [set(dataset.patients(dataset.indices(split))) for split in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts))
        rest = len(dataset.indices("train", "val"))
        assert len(dataset.indices("val")) / rest == pytest.approx(0.125, abs=0.02)
        shares = np.bincount(dataset.class_indices(dataset.indices("val"))) / len(dataset.indices("val"))
        assert shares == pytest.approx([1 / 3] * 3, abs=0.08)


def test_folds_are_those_of_scikit_learn_at_the_data_seed():
    dataset = phantom(seed=3, num_folds=5, fold=2)
    everything = np.arange(len(dataset.records))
    classes, patients = dataset.class_indices(everything), dataset.patients(everything)
    names = np.array(dataset.classes)[classes]
    reference = list(StratifiedGroupKFold(5, shuffle=True, random_state=3).split(names, names, patients))
    assert dataset.indices("test").tolist() == reference[2][1].tolist()


def test_folds_share_content_but_not_splits():
    first, second = (phantom(num_folds=5, fold=fold) for fold in (0, 1))
    assert first.content_fingerprint == second.content_fingerprint == phantom().content_fingerprint
    assert first.fingerprint != second.fingerprint


def test_too_few_patients_for_the_folds_are_refused(films):
    with pytest.raises(DataError, match="class 'COVID-19' has 9 patients"):
        load_dataset(DataConfig(dataset="covid_qu_ex", root=films, num_folds=10, fold=0))


def test_leaks_of_patients_and_of_bytes_are_found():
    records = list(phantom().records)
    check_no_leak(records, content={r.image_id: r.image_id for r in records})
    moved = [replace(records[0], split="val"), *records[1:]]
    shared = records[0].patient_id == records[1].patient_id
    twin = moved if shared else [replace(moved[0], patient_id=records[1].patient_id), *moved[1:]]
    with pytest.raises(DataError, match=rf"patient '{records[1].patient_id}' is in val and train"):
        check_no_leak(twin)
    other = next(r for r in records if r.split == "test")
    content = {r.image_id: "same" if r in (records[0], other) else r.image_id for r in records}
    with pytest.raises(
        DataError, match=f"identical files are in train and test: {records[0].image_id}, {other.image_id}"
    ):
        check_no_leak(records, content=content)


def test_permuted_labels_keep_each_split_but_lose_the_images():
    plain, control = phantom(), phantom(permute_labels=True)
    agreement = []
    for split in ("train", "val", "test"):
        before, after = (d.class_indices(d.indices(split)) for d in (plain, control))
        assert np.bincount(after) == pytest.approx(
            np.bincount(before), abs=12
        )  # patients differ in their images
        agreement += (before == after).tolist()
    assert np.mean(agreement) == pytest.approx(1 / 3, abs=0.1)
    assert all(r.finding_text is None for r in control.records)
    assert plain.content_fingerprint == control.content_fingerprint
    assert plain.fingerprint != control.fingerprint


def test_permuted_labels_stay_whole_for_a_patient():
    classes_of = {}
    for record in permute_labels(phantom().records, seed=0):
        classes_of.setdefault(record.patient_id, set()).add(tuple(record.labels.values()))
    assert {len(classes) for classes in classes_of.values()} == {1}
