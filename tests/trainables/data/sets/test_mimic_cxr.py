"""MIMIC-CXR-JPG in its form, with made-up ids: four tables, labels and reports by study."""

import gzip

import pytest

from trainables.data.sets.chexpert import FINDINGS
from trainables.errors import DataError

STEM = "mimic-cxr-2.0.0"
NAMES = sorted(["No Finding", *FINDINGS])  # alphabetical in these tables
LABELS = ({"Edema": "1.0"}, {"Edema": "0.0", "Pneumonia": "-1.0"}, {"No Finding": "1.0"})
SPLITS = ("train", "train", "train", "validate", "test")


def study_of(i):
    return f"1{i:07}", f"5{i:07}"


def dicom_of(i, view):
    return f"{i:08x}-0000aaaa-{view.lower() or 'none'}"


def table(header, rows):
    return "\n".join([header, *rows])


@pytest.fixture
def mimic(release):
    """Writes 60 patients with a study each: a frontal image, and a lateral or one without a view."""

    def write(*, labeler="chexpert", zipped=True, reports=(), drop_metadata=0):
        images, split, metadata, labels = [], [], [], []
        for i in range(60):
            subject, study = study_of(i)
            labels.append(",".join([subject, study, *(LABELS[i % 3].get(name, "") for name in NAMES)]))
            for view in (("PA", "AP")[i % 2], ("LATERAL", "")[i % 2]):
                dicom = dicom_of(i, view)
                images.append(f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg")
                split.append(f"{dicom},{study},{subject},{SPLITS[i % 5]}")
                metadata.append(f"{dicom},{subject},{study},CHEST (PA AND LAT),{view},2000,2500,21800101,1")
        header = (
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
            "StudyDate,StudyTime"
        )
        tables = {
            "split": table("dicom_id,study_id,subject_id,split", split),
            "metadata": table(header, metadata[drop_metadata:]),
            labeler: table(",".join(["subject_id", "study_id", *NAMES]), labels),
        }
        texts = {}
        for i in reports:
            subject, study = study_of(i)
            texts[f"files/p{subject[:2]}/p{subject}/s{study}.txt"] = (
                f"FINAL REPORT\n FINDINGS: Case {i}. ___\n"
            )
        root = release(images, texts)
        for name, text in tables.items():
            path = root / f"{STEM}-{name}.csv{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
        return root

    return write


def of(dataset, i, view):
    return next(r for r in dataset.records if r.path.stem == dicom_of(i, view))


@pytest.mark.parametrize(("labeler", "zipped"), [("chexpert", True), ("negbio", False)])
def test_labels_are_joined_by_study_and_splits_are_official(mimic, read, labeler, zipped):
    dataset = read("mimic_cxr", mimic(labeler=labeler, zipped=zipped))
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [36, 12, 12]
    assert dataset.findings == FINDINGS
    record = of(dataset, 1, "AP")
    assert record.patient_id == "10000001"
    assert (record.labels["Edema"], record.labels["Pneumonia"], record.labels["Fracture"]) == (0, -1, -1)
    assert of(dataset, 2, "PA").labels["Fracture"] == 0
    assert f"labels are by study, from {STEM}-{labeler}.csv{'.gz' if zipped else ''}" in dataset.notes


def test_laterals_and_images_without_a_view_are_left_out_and_counted(mimic, read):
    root = mimic()
    dataset = read("mimic_cxr", root)
    assert {record.view for record in dataset.records} == {"AP", "PA"}
    notes = [note.partition(" (")[0] for note in dataset.notes]
    assert "left out: 30 images that are not frontal" in notes
    assert "left out: 30 images whose view is not known" in notes
    assert len(read("mimic_cxr", root, frontal_only=False).records) == 120


def test_a_report_belongs_to_each_image_of_its_study(mimic, read):
    dataset = read("mimic_cxr", mimic(reports=[0, 1]), frontal_only=False)
    assert of(dataset, 0, "PA").report_text == of(dataset, 0, "LATERAL").report_text
    assert "Case 1. ___" in of(dataset, 1, "AP").report_text
    assert of(dataset, 2, "PA").report_text is None


def test_another_table_of_labels_is_chosen_by_its_name(mimic, read):
    root = mimic()
    text = gzip.decompress((root / f"{STEM}-chexpert.csv.gz").read_bytes()).decode()
    (root / f"{STEM}-negbio.csv").write_text(text.replace("-1.0", "1.0"))
    assert of(read("mimic_cxr", root), 1, "AP").labels["Pneumonia"] == -1
    chosen = read("mimic_cxr", root, manifest=f"{STEM}-negbio.csv")
    assert of(chosen, 1, "AP").labels["Pneumonia"] == 1


def test_missing_files_and_labels_are_counted_and_missing_metadata_are_refused(mimic, read):
    root = mimic()
    of(read("mimic_cxr", root), 0, "PA").path.unlink()
    path = root / f"{STEM}-chexpert.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([*lines[:2], *lines[3:]]).encode()))
    (root / "unread.txt").touch()
    dataset = read("mimic_cxr", root, seed=1)
    assert len(dataset.records) == 58
    assert "left out: 1 rows without a file" in dataset.notes
    assert "left out: 1 images without a label" in dataset.notes
    with pytest.raises(DataError, match=r"split\.csv\.gz line 2: the image is not in .*metadata\.csv\.gz"):
        read("mimic_cxr", mimic(drop_metadata=1), seed=2)
