"""NIH ChestX-ray14 in its true form: headers with commas, joined findings, official lists."""

import subprocess
import sys

import numpy as np
import pytest

from trainables.errors import DataError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient {sex},View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FINDINGS = ("Atelectasis", "Mass", "Pleural_Thickening", "Hernia|Infiltration", "No Finding")


def rows(*, age="{}", end=""):
    """Returns the rows of 40 patients, each with two images of the same findings."""
    return [
        f"{patient:08}_{image:03}.png,{FINDINGS[patient % 5]},{image},{patient},{age.format(30 + patient)},"
        f"{'MF'[patient % 2]},{('PA', 'AP')[image]},2682,2749,0.143,0.143{end}"
        for patient in range(1, 41)
        for image in range(2)
    ]


@pytest.fixture
def nih14(release):
    def write(*, table="Data_Entry_2017.csv", sex="Gender", end="", lines=None, lists=True, **texts):
        lines = lines or rows(end=end)
        names = [line.partition(",")[0] for line in lines]
        folders = ("images_001/images", "images_002/images")
        texts = {table: "\n".join([HEADER.format(sex=sex) + end, *lines]), **texts}
        if lists:  # as published, without a newline at the end
            texts |= {"train_val_list.txt": "\n".join(names[:60]), "test_list.txt": "\n".join(names[60:])}
        return release([f"{folders[i % 2]}/{name}" for i, name in enumerate(names)], texts)

    return write


@pytest.mark.parametrize(
    ("form", "ages"),
    [
        ({}, "{}"),
        ({"table": "Data_Entry_2017_v2020.csv", "sex": "Sex", "end": ","}, "0{}Y"),
    ],
)
def test_findings_patients_and_views_are_read_in_both_forms_of_the_table(nih14, read, form, ages):
    dataset = read("nih14", nih14(lines=rows(age=ages, end=form.get("end", "")), **form))
    assert dataset.task == "multilabel"
    assert len(dataset.findings) == 14
    assert dataset.classes[-3:] == ("Pleural Thickening", "Hernia", "No Finding")
    record = next(r for r in dataset.records if r.path.name == "00000003_001.png")
    assert {name for name, value in record.labels.items() if value} == {"Hernia", "Infiltration"}
    assert (record.patient_id, record.sex, record.age, record.view) == ("3", "F", 33.0, "AP")
    none = next(r for r in dataset.records if r.path.name == "00000004_000.png")
    assert {name for name, value in none.labels.items() if value} == {"No Finding"}
    assert -1 not in none.labels.values()


def test_val_is_drawn_from_the_official_train_by_patient(nih14, read):
    dataset = read("nih14", nih14())
    counts = {split: len(dataset.indices(split)) for split in ("train", "val", "test")}
    assert counts["test"] == 20
    assert counts["train"] + counts["val"] == 60
    patients = [set(dataset.patients(dataset.indices(split))) for split in ("train", "val", "test")]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    assert "split 'val' is not given: an eighth of train was drawn" in dataset.notes


def test_without_the_lists_splits_are_drawn_and_told(nih14, read):
    dataset = read("nih14", nih14(lists=False))
    assert {record.split for record in dataset.records} == {"train", "val", "test"}
    assert "the official lists of splits are not there, so splits are drawn by patient" in dataset.notes


def test_rows_without_a_file_are_left_out_and_counted(nih14, read):
    root = nih14()
    (root / "images_001/images/00000001_000.png").unlink()
    dataset = read("nih14", root)
    assert len(dataset.records) == 79
    assert "left out: 1 rows without a file" in dataset.notes


def test_one_list_alone_or_an_image_in_both_is_refused(nih14, read):
    root = nih14()
    with (root / "test_list.txt").open("a") as file:
        file.write("\n00000001_000.png")
    with pytest.raises(DataError, match=r"00000001_000\.png is in both lists"):
        read("nih14", root)
    (root / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"test_list\.txt is missing.*to draw splits"):
        read("nih14", root)


def test_an_image_in_two_folders_or_an_unknown_finding_is_refused(nih14, read):
    root = nih14()
    copy = root / "images/00000001_000.png"
    copy.parent.mkdir()
    copy.write_bytes((root / "images_001/images/00000001_000.png").read_bytes())
    with pytest.raises(DataError, match=r"line 2: '00000001_000\.png' may be 'images/"):
        read("nih14", root)
    copy.unlink()
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Mass,0,1,", "Infiltrate,0,1,"))
    with pytest.raises(DataError, match="label 'Infiltrate' is no finding; did you mean 'Infiltration'"):
        read("nih14", root)


def test_the_real_images_have_their_published_counts(nih_mini_root, read):
    dataset = read("nih14", nih_mini_root)
    labels = dataset.label_matrix(np.arange(len(dataset.records)))
    counts = dict(zip(dataset.classes, (labels == 1).sum(axis=0).tolist(), strict=True))
    assert len(dataset.records) == 1_604
    assert counts["No Finding"] == 599
    assert (counts["Pneumonia"], counts["Pleural Thickening"], counts["Hernia"]) == (516, 94, 23)
    assert ((labels[:, :-1] == 1).sum(axis=1) >= 2).sum() == 604
    assert len(dataset.indices("test")) == 227
    assert len({record.patient_id for record in dataset.records}) == 1_281


FULL_TABLE = """
import resource, sys, time
from pathlib import Path
from trainables.config import DataConfig
from trainables.data.datasets import load_dataset

began = time.process_time()
dataset = load_dataset(DataConfig(dataset="nih14", root=Path(sys.argv[1])))
used = time.process_time() - began
print(len(dataset.records), used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*dataset.notes, sep="\\n")
"""


@pytest.mark.slow
def test_the_full_table_with_few_files_is_read_in_twenty_seconds_and_one_gibibyte(release):
    """112,120 rows as in the release; 2.6 s and 0.25 GiB were measured."""
    rng = np.random.default_rng(0)
    names = [f"{row // 4:08}_{row % 4:03}.png" for row in range(112_120)]
    findings = ["|".join(sorted(set(rng.choice(FINDINGS[:4], 3)))) for _ in range(500)] + ["No Finding"] * 500
    lines = [
        f"{name},{findings[rng.integers(1000)]},{row % 4},{row // 4},{20 + row % 70:03}Y,{'MF'[row % 2]},"
        f"{('PA', 'AP')[row % 3 % 2]},2682,2749,0.143,0.143,"
        for row, name in enumerate(names)
    ]
    header = HEADER.format(sex="Sex") + ","
    texts = {
        "Data_Entry_2017_v2020.csv": "\n".join([header, *lines]),
        "train_val_list.txt": "\n".join(names[:86_524]),
        "test_list.txt": "\n".join(names[86_524:]),
    }
    root = release([f"images/{name}" for name in names[::112]], texts)
    command = [sys.executable, "-c", FULL_TABLE, root]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    measured, *notes = found.stdout.splitlines()
    images, seconds, mebibytes = map(float, measured.split())
    assert images == 1_002
    assert "left out: 111,118 rows without a file" in notes
    assert seconds < 20
    assert mebibytes < 1_024
