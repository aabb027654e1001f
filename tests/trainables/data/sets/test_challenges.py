"""RSNA and SIIM-ACR, whose tables have several rows for one image."""

from collections import Counter

import numpy as np
import pytest
from dicom_files import write_dicom

from trainables.errors import DataError

BASE = "rsna-pneumonia-detection-challenge"
CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


def rsna(release, *, count=36, classes=None, targets=None):
    ids = [f"{i:08x}-2c6e-4a4b" for i in range(count)]
    of = {image: CLASSES[i % 3] for i, image in enumerate(ids)}
    info, labels = ["patientId,class"], ["patientId,x,y,width,height,Target"]
    for image, name in of.items():
        boxes = 2 if name == "Lung Opacity" else 1
        info += [f"{image},{name}"] * boxes
        box = "1.0,2.0,3.0,4.0,1" if boxes == 2 else ",,,,0"
        labels += [f"{image},{box}"] * boxes
    texts = {
        f"{BASE}/stage_2_detailed_class_info.csv": "\n".join([*info, *(classes or [])]),
        f"{BASE}/stage_2_train_labels.csv": "\n".join([*labels, *(targets or [])]),
    }
    images = [f"{BASE}/stage_2_train_images/{image}.png" for image in ids]
    return release([*images, f"{BASE}/stage_2_test_images/ffff.png"], texts), ids


def test_rsna_has_one_image_for_several_boxes_and_three_classes(release, read):
    root, _ = rsna(release)
    dataset = read("rsna", root)
    assert dataset.classes == CLASSES
    counts = Counter(dataset.class_of(i) for i in range(len(dataset.records)))
    assert counts == dict.fromkeys(CLASSES, 12)
    assert not dataset.has_patients
    assert "1 images in" in dataset.details[-1]
    assert dataset.words.source == "pneumonia"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"classes": ["00000000-2c6e-4a4b,Lung Opacity"]}, "has the classes Lung Opacity and Normal"),
        ({"targets": ["00000000-2c6e-4a4b,1,2,3,4,1"]}, "Target 0 and 1 contradicts the class 'Normal'"),
        ({"targets": ["beef,,,,,0"]}, r"'beef' is not in stage_2_detailed_class_info\.csv"),
        ({"classes": ["beef,Normal"]}, r"'beef' is not in stage_2_train_labels\.csv"),
    ],
)
def test_rsna_tables_that_contradict_each_other_are_refused(release, read, extra, message):
    root, _ = rsna(release, **extra)
    with pytest.raises(DataError, match=message):
        read("rsna", root)


def test_rsna_names_the_row_of_a_missing_image(release, read):
    root, ids = rsna(release)
    (root / BASE / "stage_2_train_images" / f"{ids[4]}.png").unlink()
    with pytest.raises(DataError, match=rf"class_info\.csv line 7: '{ids[4]}' cannot be read"):
        read("rsna", root)


def test_rsna_headers_give_the_view_and_their_ids_are_of_images(release, read, tmp_path):
    root, ids = rsna(release)
    for i, image in enumerate(ids):
        png = root / BASE / "stage_2_train_images" / f"{image}.png"
        png.unlink()
        pixels = np.random.default_rng(i).integers(0, 255, size=(20, 24), dtype=np.uint8)
        write_dicom(png.with_suffix(".dcm"), pixels, PatientID=image, ViewPosition=("AP", "PA")[i % 2])
    dataset = read("rsna", root)
    assert not dataset.has_patients
    assert [record.view for record in dataset.records[:2]] == ["AP", "PA"]
    (tmp_path / "bad.txt").write_text(f"{dataset.records[0].image_id}\n")
    assert len(read("rsna", root, exclude=tmp_path / "bad.txt").records) == 35


def siim(release, *, table="train-rle.csv", extra=()):
    ids = [f"1.2.276.0.7230010.3.1.4.8323329.{1000 + i}.15178751{i:02d}" for i in range(24)]
    rows = ["ImageId, EncodedPixels"]
    for i, image in enumerate(ids):
        rows += [f"{image}, -1"] if i % 2 else [f"{image}, 100 5 1000 7", f"{image}, 200 3 900 2"]
    images = [f"dicom-images-train/{i}.study/{i}.series/{image}.png" for i, image in enumerate(ids)]
    texts = {table: "\n".join([*rows, *extra])}
    return release([*images, "dicom-images-test/9.study/9.series/1.2.99.png"], texts), ids


@pytest.mark.parametrize("table", ["train-rle.csv", "stage_2_train.csv"])
def test_siim_finds_nested_images_by_name_and_reads_the_label_from_the_masks(release, read, table):
    root, ids = siim(release, table=table)
    dataset = read("siim", root)
    assert dataset.classes == ("No pneumothorax", "Pneumothorax")
    assert len(dataset.records) == 24
    for record in dataset.records:
        i = next(i for i, image in enumerate(ids) if record.path.stem == image)
        assert record.labels["Pneumothorax"] == (i + 1) % 2
        assert record.path.parent.name == f"{i}.series"
    assert "1 images in" in dataset.details[-1]
    assert dataset.words.source == "pneumothorax"


def test_siim_refuses_a_mask_beside_no_mask(release, read):
    root, ids = siim(release)
    root, ids = siim(release, extra=[f"{ids[1]}, 5 6"])
    with pytest.raises(DataError, match=rf"'{ids[1]}' has a mask, and also -1 for none"):
        read("siim", root)
