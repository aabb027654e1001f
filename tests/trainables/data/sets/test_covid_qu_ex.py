import csv
import os
import shutil

import numpy as np
import pytest

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError


def covid(root, **options):
    return load_dataset(DataConfig(dataset="covid_qu_ex", root=root, **options), with_test_labels=True)


def write_metadata(root, **overrides):
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    rows = [
        {
            "path": p,
            "split": p.split("/")[0],
            "label": p.split("/")[1],
            "patient": f"p-{p}",
            "group": "",
            "source": "here",
        }
        for p in paths
    ]
    for number, changes in overrides.items():
        rows[int(number.removeprefix("row"))].update(changes)
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_plain_layout_gives_frozen_classes_and_given_splits(films):
    dataset = covid(films)
    assert dataset.classes == ("COVID-19", "Non-COVID", "Normal")
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [9, 9, 9]
    for i, record in enumerate(dataset.records):
        assert record.image_id.split("/")[1] == dataset.classes[dataset.class_indices(np.array([i]))[0]]
        assert record.patient_id == record.image_id
    assert not dataset.has_patients


def test_official_doubled_folders_masks_and_the_covid_alias_are_read(films, tmp_path):
    official = tmp_path / "download" / "Lung Segmentation Data" / "Lung Segmentation Data"
    shutil.copytree(films, official)
    for split in ("Train", "Val", "Test"):
        (official / split / "COVID-19").rename(official / split / "COVID")
        shutil.copytree(official / split / "Normal" / "images", official / split / "Normal" / "lung masks")
    dataset = covid(tmp_path / "download")
    assert np.bincount(dataset.class_indices(dataset.indices("train", "val", "test"))).tolist() == [9, 9, 9]
    masks = {r.labels["Normal"]: r.mask_path for r in dataset.records}
    assert masks[1].parent.name == "lung masks"
    assert masks[0] is None


def test_metadata_gives_groups_before_patients_and_sources(films):
    rows = write_metadata(films, row0={"group": "twins"}, row1={"group": "twins"})
    patients = {r.image_id: r.patient_id for r in covid(films).records}
    assert patients[rows[0]["path"]] == patients[rows[1]["path"]] == "twins"
    assert patients[rows[2]["path"]] == f"p-{rows[2]['path']}"
    assert {r.source for r in covid(films).records} == {"here"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "Train"}, r"metadata.csv line 2: column 'split' says 'Train'"),
        ({"label": "Normal"}, r"metadata.csv line 2: column 'label' says 'Normal'"),
        ({"patient": ""}, r"metadata.csv line 2: the patient is empty"),
        ({"path": "Test/COVID-19/images/ghost.png"}, r"line 2: no file 'Test/COVID-19/images/ghost.png'"),
    ],
)
def test_metadata_that_contradicts_the_folders_is_refused_by_row(films, changes, message):
    write_metadata(films, row0=changes)
    with pytest.raises(DataError, match=message):
        covid(films)


def test_patient_in_two_splits_is_refused_with_both_named(films):
    rows = write_metadata(films)
    test, train = rows[0], next(r for r in rows if r["split"] == "Train")
    write_metadata(films, row0={"group": "anna"}, **{f"row{rows.index(train)}": {"group": "anna"}})
    with pytest.raises(DataError, match="patient 'anna' is in test and train") as error:
        covid(films)
    assert test["path"] in str(error.value)
    assert train["path"] in str(error.value)


def test_identical_bytes_in_two_splits_are_refused(films):
    shutil.copy(films / "Train/Normal/images/Normal-20.png", films / "Test/Normal/images/copy.png")
    with pytest.raises(DataError, match=r"identical files are in test and train.*Normal-20\.png"):
        covid(films)


@pytest.mark.parametrize(("root", "message"), [(None, "not set"), ("/nowhere/films", "does not exist")])
def test_missing_root_says_where_and_how_to_set_it(root, message):
    with pytest.raises(DataError, match=rf"data\.root.*{message}.*--set data\.root="):
        covid(root)


def test_metadata_that_is_a_link_out_of_the_root_is_refused(films, tmp_path):
    (tmp_path / "elsewhere.csv").write_text("path,split,label,patient\n")
    (films / "metadata.csv").symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(DataError, match=r"'metadata\.csv' is a link that leads out"):
        covid(films)


def test_folder_without_splits_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not contain Train, Val, Test"):
        covid(tmp_path)


def test_link_out_of_the_root_and_fifo_are_refused_unopened(films, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"not ours")
    (films / "Val/Normal/images/link.png").symlink_to(outside)
    os.mkfifo(films / "Val/Normal/images/pipe.png")
    with pytest.raises(DataError, match=r"unusable rows or images in .* \(2\)") as error:
        covid(films)
    assert "link.png' is a link that leads out" in str(error.value)
    assert "pipe.png' is not a regular file" in str(error.value)


def test_real_xrays_are_read_with_whole_patient_groups_in_one_split(xray3_root):
    dataset = covid(xray3_root)
    counts = {
        s: np.bincount(dataset.class_indices(dataset.indices(s))).tolist() for s in ("train", "val", "test")
    }
    assert counts == {"train": [84, 350, 349], "val": [10, 50, 50], "test": [23, 100, 100]}
    assert len({r.patient_id for r in dataset.records}) == 758
    assert {r.source for r in dataset.records} == {"NIH ChestX-ray14", "covid-chestxray-dataset"}
