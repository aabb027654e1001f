"""Public sets whose labels are in folders: the COVID-19 Radiography Database, Kermany, Rahman et al."""

from collections import Counter

import pytest

from trainables.errors import DataError

COVID = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def classes_of(dataset):
    return Counter(dataset.class_of(i) for i in range(len(dataset.records)))


def test_covid_radiography_has_four_classes_with_masks_and_drawn_splits(release, read):
    base = "COVID-19_Radiography_Dataset"
    images = [f"{base}/{name}/images/{name}-{i}.png" for name in COVID for i in range(1, 11)]
    masks = [path.replace("/images/", "/masks/") for path in images if not path.endswith("-1.png")]
    root = release([*images, *masks], {f"{base}/COVID.metadata.xlsx": "x"})
    dataset = read("covid_radiography", root)
    assert dataset.classes == ("COVID-19", "Lung Opacity", "Normal", "Viral Pneumonia")
    assert set(classes_of(dataset).values()) == {10}
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [28, 4, 8]
    assert not dataset.has_patients
    for record in dataset.records:
        if record.image_id.endswith("-1.png"):
            assert record.mask_path is None
        else:
            assert str(record.mask_path) == str(record.path).replace("/images/", "/masks/")
    assert any("a model can learn the collection" in note for note in dataset.notes)
    assert dataset.words.source == "pneumonia"


@pytest.mark.parametrize("lung_opacity", ["Lung_Opacity", "Lung Opacity"])
def test_classes_are_joined_by_their_own_names_and_by_the_labels_in_the_files(release, read, lung_opacity):
    root = release(f"{name}/images/{name}-{i}.png" for name in COVID for i in range(1, 11))
    dataset = read("covid_radiography", root, rename={lung_opacity: "Other", "Viral Pneumonia": "Other"})
    assert classes_of(dataset) == {"COVID-19": 10, "Normal": 10, "Other": 20}


def kermany(part, *, nested=""):
    normal = [f"{nested}chest_xray/{part}/NORMAL/IM-{i:04d}-0001.jpeg" for i in NUMBERS[part]]
    ill = [
        f"{nested}chest_xray/{part}/PNEUMONIA/person{person}_{kind}_{image}.jpeg"
        for person in NUMBERS[part]
        for kind, image in (("bacteria", 1), ("virus", 2))
    ]
    return normal + ill


NUMBERS = {"train": range(1, 17), "val": range(17, 19), "test": range(101, 105)}


def test_kermany_joins_the_tiny_val_with_train_and_draws_val_by_patient(release, read):
    root = release([*kermany("train"), *kermany("val"), *kermany("test")])
    dataset = read("kermany", root)
    assert dataset.classes == ("Normal", "Pneumonia")
    assert dataset.has_patients
    assert len(dataset.indices("test")) == 12
    assert len(dataset.indices("train", "val")) == 54
    drawn = {dataset.records[i].image_id.split("/")[1] for i in dataset.indices("val")}
    assert drawn <= {"train", "val"}
    assert "train" in drawn
    split_of = {}
    for record in dataset.records:
        assert split_of.setdefault(record.patient_id, record.split) == record.split
    assert "the published val split has 16 images; it was joined with train" in dataset.notes


def test_kermany_patients_are_read_from_names_and_numbered_anew_in_test(release, read):
    train = [*kermany("train"), "chest_xray/train/NORMAL/NORMAL2-IM-0007-0001-0002.jpeg"]
    again = "chest_xray/test/PNEUMONIA/person1_virus_9.jpeg"
    dataset = read("kermany", release([*train, *kermany("test"), again]))
    patients = {record.image_id.split("/")[-1]: record.patient_id for record in dataset.records}
    assert patients["person1_bacteria_1.jpeg"] == patients["person1_virus_2.jpeg"] == "train person1"
    assert patients["person1_virus_9.jpeg"] == "test person1"
    assert patients["IM-0001-0001.jpeg"] == "IM-0001"
    assert patients["NORMAL2-IM-0007-0001-0002.jpeg"] == "NORMAL2-IM-0007"


def test_kermany_of_mendeley_has_no_val_and_other_names(release, read):
    images = [
        f"chest_xray/{part}/{folder}/{kind}-{1000 + i}-000{image}.jpeg"
        for part, numbers in (("train", range(16)), ("test", range(16, 20)))
        for folder, kind in (("NORMAL", "NORMAL"), ("PNEUMONIA", "BACTERIA"))
        for i in numbers
        for image in (1, 2)
    ]
    dataset = read("kermany", release(images))
    assert len(dataset.indices("test")) == 16
    assert len({record.patient_id for record in dataset.records}) == 40
    assert "NORMAL-1000" in {record.patient_id for record in dataset.records}


def test_kermany_leaves_out_the_nested_copy_and_counts_it(release, read):
    root = release([*kermany("train"), *kermany("test"), *kermany("test", nested="chest_xray/")])
    dataset = read("kermany", root)
    assert len(dataset.records) == 60
    assert "left out: 12 images in other folders" in dataset.notes


def test_rahman_is_split_by_image_and_warns_of_its_collections(release, read):
    base = "TB_Chest_Radiography_Database"
    images = [f"{base}/{name}/{name}-{i}.png" for name in ("Normal", "Tuberculosis") for i in range(1, 13)]
    dataset = read("tb_rahman", release(images, {f"{base}/README.md.txt": "x"}))
    assert dataset.classes == ("Normal", "Tuberculosis")
    assert set(classes_of(dataset).values()) == {12}
    assert not dataset.has_patients
    assert any("a model can learn the collection" in note for note in dataset.notes)
    assert dataset.words.source == "tuberculosis"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("covid_radiography", "COVID, Normal, Viral Pneumonia"),
        ("kermany", "train, test"),
        ("tb_rahman", "Normal, Tuberculosis"),
        ("tbx11k", "imgs, lists"),
        ("montgomery", "CXR_png"),
        ("shenzhen", "CXR_png"),
        ("rsna", "stage_2_detailed_class_info.csv, stage_2_train_labels.csv"),
    ],
)
def test_another_folder_is_refused_with_the_expected_layout(release, read, name, expected):
    root = release(["a/x.png"])
    with pytest.raises(DataError, match=f"does not contain {expected}; {name} is expected as"):
        read(name, root)
