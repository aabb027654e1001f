"""PadChest: a list of labels in text, views, images that are left out."""

import numpy as np
import pytest
from PIL import Image

from trainables.data.sets.padchest import BROKEN, FINDINGS, TABLE, labels_in
from trainables.errors import DataError

HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,"
    "Projection,MethodProjection,Pediatric,Report,MethodLabel,Labels,Localizations"
)


def row(number, labels, *, patient=None, view="PA", birth="1930.0", sex="F", method="RNN_model", image=None):
    image = image or f"2168_{number:03d}.png"
    of = patient or f"8{number:035d}"
    return (
        f'{number},{image},{number % 3},20140915,s{number},{of},{birth},{sex},nan,{view},Manual,No,"sin . ",'
        f'{method},"{labels}",[]'
    )


def padchest(release, rows, *, table=TABLE, flat=False):
    names = [line.split(",")[1:3] for line in rows]
    images = [name if flat else f"{folder}/{name}" for name, folder in names]
    return release(images, {table: "\n".join([HEADER, *rows])})


def many(count=40):
    """Rows of 40 patients, half of them with pneumonia."""
    return [row(i, "['pneumonia', ' scoliosis']" if i % 2 else "['normal']") for i in range(count)]


def test_labels_with_stray_blanks_are_read_from_a_list_in_text(release, read):
    rows = [
        *many(),
        row(40, "['pleural effusion ', '  atelectasis basal', '', 'NSG tube']", method="Physician"),
    ]
    dataset = read("padchest", padchest(release, rows))
    assert dataset.findings == tuple(FINDINGS)
    labels = next(r.labels for r in dataset.records if "_040" in r.image_id)
    present = {"Pleural Effusion", "Atelectasis", "Support Devices"}
    assert {name for name, value in labels.items() if value == 1} == present
    assert set(labels.values()) == {0, 1}  # a report that does not name a finding says that it is absent
    assert dataset.task == "multilabel"
    assert any(
        note.startswith("labels of 1 images by physicians, of 40 by a model") for note in dataset.notes
    )


def test_no_finding_is_the_label_normal_alone(release, read):
    rows = [
        *many(),
        row(40, "['gynecomastia']"),  # none of the findings that are read, and not normal
        row(41, "['normal', 'unchanged']"),
    ]
    records = read("padchest", padchest(release, rows)).records
    of = {record.image_id[-7:-4]: record.labels["No Finding"] for record in records}
    assert (of["000"], of["001"], of["040"], of["041"]) == (1, 0, 0, 1)


def test_images_without_a_label_about_the_image_are_left_out_and_counted(release, read):
    rows = [
        *many(),
        row(40, "['unchanged']"),
        row(41, "['suboptimal study', 'unchanged']"),
        row(42, "['exclude', 'pneumonia']"),
        row(43, "nan"),
        row(44, "['']"),
        row(45, "['pneumonia']", image=f"{sorted(BROKEN)[0]}.png"),
        row(46, "['pneumonia']", view="L"),
        row(47, "['pneumonia']", view="COSTAL"),
        row(48, "['pneumonia']", view="EXCLUDE"),
        row(49, "['pneumonia']", view="AP_horizontal"),
        row(50, "['pneumonia']", view="UNK"),
    ]
    dataset = read("padchest", padchest(release, rows))
    assert len(dataset.records) == 42
    assert {record.view for record in dataset.records} == {"PA", "AP", None}
    assert sorted(note for note in dataset.notes if note.startswith("left out")) == sorted(
        [
            "left out: 1 images that are missing or damaged in the release",
            "left out: 2 images whose labels do not say what they show, such as 'unchanged'",
            "left out: 1 images with the label 'exclude'",
            "left out: 2 images without a label",
            "left out: 3 images that are not frontal (--set data.frontal_only=false reads them)",
        ]
    )
    assert not any("in no row" in detail for detail in dataset.details)


def test_a_part_of_the_images_is_enough_and_folders_may_be_flat(release, read):
    root = padchest(release, many(), flat=True)
    (root / "2168_007.png").unlink()
    dataset = read("padchest", root)
    assert len(dataset.records) == 39
    assert "left out: 1 rows without a file" in dataset.notes


def test_patient_sex_and_age_are_read(release, read):
    rows = [
        *many(),
        row(40, "['normal']", patient="p", birth="1950.0", sex="O"),
        row(41, "['normal']", birth=""),
    ]
    by_id = {r.image_id[-7:-4]: r for r in read("padchest", padchest(release, rows)).records}
    assert (by_id["000"].age, by_id["000"].sex) == (84, "F")
    assert (by_id["040"].patient_id, by_id["040"].age, by_id["040"].sex) == ("p", 64, None)
    assert by_id["041"].age is None


def test_images_of_16_bits_are_decoded(release, read):
    root = padchest(release, many())
    deep = np.random.default_rng(0).integers(0, 4096, size=(20, 24), dtype=np.uint16)
    Image.fromarray(deep).save(root / "0/2168_000.png")
    dataset = read("padchest", root)
    pixels = dataset.decode(dataset.records[0])
    assert dataset.records[0].image_id == "0/2168_000.png"
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "['a'", "['a', 1]", "{'a'}", "a", f"['{'a' * 20_000}']", "[" * 5000]
)
def test_a_value_that_is_no_list_of_texts_is_refused_and_never_run(text):
    with pytest.raises(ValueError, match="is no list such as"):
        labels_in(text)


def test_a_damaged_list_names_its_row(release, read):
    with pytest.raises(DataError, match=rf"{TABLE} line 42: Labels: '\[pneumonia' is no list"):
        read("padchest", padchest(release, [*many(), row(40, "[pneumonia")]))
