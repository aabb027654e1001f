"""BRAX: CheXpert's labels, missing views, groups of ages, strips."""

import pytest
from dicom_files import write_dicom

from trainables.data.sets.brax import FINDINGS, TABLE

HEADER = "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,No Finding," + ",".join(
    [*FINDINGS, "ViewPosition", "Rows", "Columns", "Manufacturer"]
)


def brax(release, *, folder="", num_patients=30):
    """Two images of each patient: the second has no view. Returns the root and the stems of the images."""
    rows, stems = [HEADER], []
    for i in range(num_patients):
        for view in ("PA", ""):
            stem = f"id_{i:04d}/Study_1.2.{i}/Series_{view or 'x'}/image-{i}-{view}"
            healthy, edema, mass = ("1.0", "", "") if i % 2 else ("", "1.0", "-1.0")
            labels = {"Edema": edema, "Lung Lesion": mass, "Pneumonia": "" if i % 2 else "0.0"}
            age = "85 or more" if i == 0 else "40"
            size = ("100", "2500") if i == 4 and view == "" else ("2500", "2000")
            rows.append(
                f"Anonymized_DICOMs/{stem},images/{stem}.png,id_{i:04d},{'MF'[i % 2]},{age},,2011,{healthy},"
                + ",".join([*(labels.get(name, "") for name in FINDINGS), view, *size, "acme"])
            )
            stems.append(stem)
    images = [f"{folder}images/{stem}.png" for stem in stems]
    return release(images, {f"{folder}{TABLE}": "\n".join(rows)}), stems


@pytest.mark.parametrize("folder", ["", "physionet.org/files/brax/1.1.0/"])
def test_labels_views_and_ages_are_read_and_strips_are_left_out(release, read, folder):
    root, _ = brax(release, folder=folder)
    dataset = read("brax", root)
    assert dataset.findings == FINDINGS
    assert len(dataset.records) == 30
    assert {record.view for record in dataset.records} == {"PA"}
    notes = "\n".join(dataset.notes)
    assert "left out: 29 images whose view is not known" in notes
    assert "left out: 1 images whose longer side is over 10 times the shorter one" in notes
    first, second = (next(r for r in dataset.records if r.patient_id == f"id_000{i}") for i in (0, 1))
    assert (first.age, first.sex, second.age, second.sex) == (85, "M", 40, "F")
    assert (first.labels["Edema"], first.labels["Lung Lesion"], first.labels["Pneumonia"]) == (1, -1, 0)
    assert (first.labels["Fracture"], first.labels["No Finding"]) == (-1, 0)  # blank: not named
    assert (second.labels["Edema"], second.labels["Support Devices"], second.labels["No Finding"]) == (
        0,
        -1,
        1,
    )


def test_images_without_a_view_are_read_if_all_views_are_asked_for(release, read):
    dataset = read("brax", brax(release)[0], frontal_only=False)
    assert {record.view for record in dataset.records} == {"PA", None}
    assert len(dataset.records) == 59


def test_uncertain_labels_of_train_are_read_as_asked(release, read):
    root, _ = brax(release)
    records = read("brax", root, uncertain={"Lung Lesion": "ones"}).records
    read_as = {record.labels["Lung Lesion"] for record in records if record.split == "train"}
    assert read_as == {0, 1}  # 0: the images without any finding


def test_dicom_files_without_suffix_are_read_if_there_is_no_folder_of_png(release, read, pixels):
    root, stems = brax(release)
    for png in (root / "images").rglob("*.png"):
        png.unlink()
    for folder in sorted((root / "images").rglob("*"), reverse=True):
        folder.rmdir()
    (root / "images").rmdir()
    for seed, stem in enumerate(stems):
        path = root / "Anonymized_DICOMs" / stem
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, pixels(seed), PatientID="x")
    dataset = read("brax", root)
    assert len(dataset.records) == 30
    assert dataset.decode(dataset.records[0]).shape == (20, 24)
