import os
import subprocess
import sys

import numpy as np
import pytest

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError


def read(root, **options):
    return load_dataset(DataConfig(dataset="manifest", root=root, **options), with_test_labels=True)


def test_without_splits_patients_are_drawn_seventy_ten_twenty_and_stratified(write_manifest):
    dataset = read(write_manifest())
    assert dataset.classes == ("COVID-19", "Normal")
    assert [len(dataset.indices(s)) for s in ("train", "val", "test")] == [42, 6, 12]
    for split in ("train", "val", "test"):
        classes = dataset.class_indices(dataset.indices(split))
        assert abs(np.diff(np.bincount(classes))) <= 2  # one patient
    split_of = {}
    for record in dataset.records:
        assert split_of.setdefault(record.patient_id, record.split) == record.split


def test_the_draw_depends_on_the_data_seed_alone(write_manifest):
    root = write_manifest()
    splits = [
        [r.split for r in read(root, **options).records] for options in ({}, {"captions": "class_template"})
    ]
    assert splits[0] == splits[1]
    assert splits[0] != [r.split for r in read(root, seed=1).records]


def test_given_splits_are_kept(write_manifest):
    given = ["train", "Train", "val", "val", "test", "test"] * 10
    patients = [f"{split.lower()}{i % 7}" for i, split in enumerate(given)]
    root = write_manifest(split=given, patient_id=patients)
    assert [r.split for r in read(root).records] == [split.lower() for split in given]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../secret.png", "holds '..'"),
        ("sub/../../secret.png", "holds '..'"),
        ("/etc/passwd", "is absolute"),
        ("C:/secret.png", "is absolute"),
        ("..\\secret.png", "contains a backslash"),
        ("~/secret.png", "starts with '~'"),
        ("https://example.org/film.png", "is a URL"),
        ("film\0.png", "NUL"),
        (" ", "is empty"),
        ("absent.png", "cannot be read"),
        (".", "not a regular file"),
        ("pipe.png", "not a regular file"),
        ("link.png", "leads out of data.root"),
        ("film-00.png", "is already used on manifest.csv line 2"),
    ],
)
def test_path_that_is_not_a_file_inside_the_root_is_refused_by_row(write_manifest, tmp_path, path, problem):
    root = write_manifest()
    (tmp_path / "secret.png").write_bytes(b"outside")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe.png")
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace("film-07.png", path))
    with pytest.raises(DataError, match=r"manifest\.csv line 9") as error:
        read(root)
    assert problem in str(error.value)


def test_nothing_outside_the_root_is_opened(write_manifest, tmp_path, monkeypatch):
    root = write_manifest()
    (root / "manifest.csv").write_text("path,label,patient_id\n../canary,Normal,a\nfilm-01.png,COVID-19,b\n")
    opened = []
    monkeypatch.setattr("io.open", lambda path, *args, **kw: opened.append(path))
    with pytest.raises(DataError):
        read(root, manifest="../canary")
    assert opened == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,patient_idd\nfilm-00.png,Normal,a\n", "no column 'patient_id'; is it 'patient_idd'"),
        ("path,lable,patient_id\nfilm-00.png,Normal,a\n", "no column 'label'; is it 'lable'"),
        ("path,label,patient_id,splits\nfilm-00.png,Normal,a,test\n", "no column 'split'; is it 'splits'"),
        ("path,label,patient_id\n", "no rows"),
        ("", "no column 'path'"),
        ("path,label,patient_id\nfilm-00.png,Normal\n", "line 2: 3 values expected"),
        (
            "path,label,patient_id\nfilm-00.png,Normal,a\n",
            "at least 2 classes are needed, but there is only 'Normal'",
        ),
        (
            "path,label,patient_id\nfilm-00.png,Normal,\nfilm-01.png,COVID-19,b\n",
            "line 2: the patient is empty",
        ),
        ("path,patient_id\nfilm-00.png,a\n", "no column 'label', and no column of a finding"),
        (
            "path,label,patient_id\nfilm-00.png,Mass,a\nfilm-01.png,Mass;TB,b\n",
            r"line 3: column 'label': 'Mass;TB' names several findings \(1 such images\); join them by '\|'",
        ),
        (
            "path,label,patient_id\nfilm-00.png,Mass|TB,a\nfilm-01.png,'Mass,TB',b\n".replace("'", '"'),
            r"column 'label': 'Mass,TB' names several findings; join them by '\|'",
        ),
        (
            "path,label,patient_id\nfilm-00.png,Mass|TB,a\nfilm-01.png,Normal,b\n",
            """'Normal' stands among findings.*'data.rename={"Normal": "No Finding"}'""",
        ),
        (
            "path,label,patient_id\nfilm-00.png,Mass|TB,a\nfilm-01.png,,b\n",
            "line 3: the label is empty",
        ),
        ("path,Mass,Mass\nfilm-00.png,1,1\n", "several columns are named 'Mass'"),
        ("path,lable,Mass\nfilm-00.png,a,1\n", "no column 'label'; is it 'lable'"),
        (
            "path,label,patient_id,split\nfilm-00.png,Normal,a,later\nfilm-01.png,TB,b,val\n",
            "line 2: split 'later' is not one of train, val, test",
        ),
        (
            "path,label,patient_id\n" + "film-00.png,Normal,a\nfilm-01.png,TB,b\n",
            "class 'Normal' has 1 patients",
        ),
    ],
)
def test_bad_table_is_refused_with_its_place(write_manifest, text, message):
    root = write_manifest()
    (root / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(root)


def labels_by_name(dataset):
    return {record.path.name: dict(record.labels) for record in dataset.records}


def several(**more):
    """Returns columns of 60 images of 30 patients: label, or a column for each finding."""
    label = ["No Finding", "Mass", "Mass|Edema", "Edema", "Mass", "No Finding"] * 10
    return {"label": label, **more}


def test_labels_that_join_findings_by_a_bar_are_several_findings(write_manifest):
    dataset = read(write_manifest(**several()))
    assert dataset.task == "multilabel"
    assert dataset.classes == ("Edema", "Mass", "No Finding")
    labels = labels_by_name(dataset)
    assert labels["film-00.png"] == {"Edema": 0, "Mass": 0, "No Finding": 1}
    assert labels["film-02.png"] == {"Edema": 1, "Mass": 1, "No Finding": 0}


def test_a_table_without_a_bar_has_classes_unless_the_task_is_given(write_manifest):
    root = write_manifest(label=["Edema", "Mass", "No Finding"] * 20)
    assert read(root).task == "multiclass"
    dataset = read(root, task="multilabel")
    assert dataset.task == "multilabel"
    assert dataset.findings == ("Edema", "Mass")
    with pytest.raises(DataError, match=r"'Mass\|Edema' names several.*leave data\.task=multiclass out"):
        read(write_manifest(**several()), task="multiclass")


def test_columns_of_ones_and_zeros_are_findings_where_no_column_is_the_label(write_manifest):
    root = write_manifest(
        **{"Pleural Effusion": ["1.0", "0.0", "", "-1.0", "1", "0"] * 10, "Edema": ["1", "0", "0"] * 20},
        weight=["3", "1", "0"] * 20,
    )
    table = (root / "manifest.csv").read_text().replace("path,label,", "path,words,")
    (root / "manifest.csv").write_text(table)
    dataset = read(root)
    assert dataset.classes == ("Pleural Effusion", "Edema", "No Finding")  # in the order of the columns
    labels = labels_by_name(dataset)
    assert [tuple(labels[f"film-0{i}.png"].values()) for i in range(4)] == [
        (1, 1, 0),
        (0, 0, 1),
        (-1, 0, -1),
        (-1, 1, 0),
    ]
    assert "findings: read from the columns Pleural Effusion, Edema" in dataset.notes
    assert "labels: 10 uncertain (-1) ignored" in dataset.notes
    assert "manifest.csv: columns that are not read: words, weight" in dataset.details
    assert (
        read(root, uncertain={"Pleural Effusion": "ones"}).content_fingerprint != dataset.content_fingerprint
    )


def test_settings_of_findings_are_refused_for_classes(write_manifest):
    root = write_manifest()
    for options, name in [({"uncertain": "ones"}, "uncertain"), ({"blank": "zeros"}, "blank")]:
        with pytest.raises(DataError, match=f"data.{name}: manifest has one class per image"):
            read(root, **options)


def test_every_bad_row_is_counted(write_manifest):
    root = write_manifest()
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace("film-", "flim-"))
    with pytest.raises(DataError, match=r"(?s)unusable rows or images in .* \(60\):.*line 2.*and 40 more"):
        read(root)


MILLION_ROWS = """
import resource, sys, time
from pathlib import Path
from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError

began = time.process_time()
try:
    load_dataset(DataConfig(dataset="manifest", root=Path(sys.argv[1])))
except DataError as error:
    print(len(str(error).splitlines()), "unusable rows" in str(error))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, time.process_time() - began)
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_million_rows_are_refused_in_bounded_memory_and_time(tmp_path):
    with (tmp_path / "manifest.csv").open("w") as table:
        table.write("path,label,patient_id\n")
        table.writelines(f"films/{row:07}.png,Normal,p{row // 3}\n" for row in range(999_999))
        table.write("films/last.png,COVID-19,p-last\n")
    command = [sys.executable, "-c", MILLION_ROWS, tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=550)
    listed, used = found.stdout.splitlines()
    assert listed == "22 True"  # the first twenty, and how many more
    mebibytes, seconds = map(float, used.split())
    assert mebibytes < 2_500
    assert seconds < 120
