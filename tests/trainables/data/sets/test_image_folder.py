import os

import numpy as np
import pytest
from PIL import Image

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError


def film(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(32, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def write(tmp_path):
    """Writes one image per path; returns the root."""

    def write(paths):
        for seed, path in enumerate(paths):
            film(tmp_path / "own" / path, seed)
        return tmp_path / "own"

    return write


def read(root, **options):
    return load_dataset(DataConfig(dataset="image_folder", root=root, **options), with_test_labels=True)


def classes(names, count=12):
    return [f"{name}/{name} ({i}).png" for name in names for i in range(count)]


def test_folders_of_any_name_are_classes_and_splits_are_drawn_by_image(write):
    dataset = read(write(classes(("Silicosis", "zz-healthy"))))
    assert dataset.classes == ("Silicosis", "zz-healthy")
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [17, 2, 5]
    assert not dataset.has_patients


def test_splits_by_their_usual_names_and_wrapped_folders(write):
    paths = [
        f"chest/chest/{s}/{c}/{s}{i}.png" for s in ("Training", "dev", "TEST") for c in "AB" for i in range(2)
    ]
    dataset = read(write(paths))
    assert dataset.classes == ("A", "B")
    assert {r.image_id.split("/")[2]: r.split for r in dataset.records} == {
        "Training": "train", "dev": "val", "TEST": "test",
    }  # fmt: skip


def test_without_val_an_eighth_of_train_is_drawn_and_test_is_kept(write):
    train = [f"train/{c}/{i}.png" for c in "AB" for i in range(16)]
    dataset = read(write([*train, "test/A/x.png", "test/B/y.png"]))
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [28, 4, 2]
    assert any("'val' is not given" in note for note in dataset.notes)


def test_masks_hidden_files_and_other_files_are_left_out_and_told(write):
    root = write([*classes("AB"), "A/masks/0.png", "B/Lung Masks/1.png", ".cache/x.png", "__MACOSX/A/y.png"])
    (root / "A" / "notes.txt").write_text("x")
    (root / "A" / "._hidden.png").write_text("x")
    dataset = read(root)
    assert len(dataset.records) == 24
    assert dataset.details == ("ignored: masks, and files that are no images (2 .png, 1 .txt)",)


def test_images_beside_the_folders_are_left_out_and_counted(write):
    dataset = read(write([*classes("AB"), "overview.png"]))
    assert len(dataset.records) == 24
    assert "left out: 1 images outside the folders of the classes" in dataset.notes


def test_many_folders_below_each_class_are_patients(write):
    paths = [f"{c}/{c}{p}/{i}.png" for c in "AB" for p in range(10) for i in range(2)]
    dataset = read(write(paths))
    assert dataset.has_patients
    assert len({r.patient_id for r in dataset.records}) == 20
    for r in dataset.records:
        assert r.patient_id == r.image_id.split("/")[1]


def test_one_folder_below_each_class_is_no_patient(write):
    dataset = read(write([f"{c}/images/{c}{i}.png" for c in "AB" for i in range(12)]))
    assert not dataset.has_patients


@pytest.mark.parametrize("paths", [["a.png", "b.png"], ["only/a.png", "only/b.png"], []])
def test_without_two_classes_the_message_says_what_is_expected(write, tmp_path, paths):
    (tmp_path / "own").mkdir()
    write(paths)
    with pytest.raises(DataError, match=r"no folders of two or more classes.*data\.dataset=manifest"):
        read(tmp_path / "own")


def test_folders_of_splits_below_each_class_are_read_too(write):
    splits = ("train", "valid", "test")
    dataset = read(write([f"{c}/{s}/{i}.png" for c in "AB" for s in splits for i in range(2)]))
    assert dataset.classes == ("A", "B")
    assert {r.image_id.split("/")[1]: r.split for r in dataset.records} == {
        "train": "train", "valid": "val", "test": "test",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("folders", "split", "other"),
    [
        (("train/A", "train/B", "test/A", "extra/A"), "test", "extra"),
        (("A/train", "B/train", "B/x"), "train", "x"),
    ],
)
def test_a_folder_beside_those_of_splits_is_refused_not_taken_for_a_class(write, folders, split, other):
    with pytest.raises(DataError, match=f"'{split}' names a split, but '{other}' beside it does not"):
        read(write([f"{folder}/{i}.png" for folder in folders for i in range(2)]))


def test_folders_without_images_and_links_are_told(write, tmp_path):
    root = write(classes("AB"))
    (root / "C").mkdir()
    (root / "D").symlink_to(tmp_path)
    dataset = read(root)
    assert dataset.classes == ("A", "B")
    assert any(note.startswith("left out: 2 folders without an image") for note in dataset.notes)
    assert dataset.details == ("no image was read in: C, D (links are not followed)",)


def test_images_beside_the_classes_of_a_split_are_counted(write):
    splits = [f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in "AB" for i in range(2)]
    assert (
        "left out: 1 images outside the folders of the classes" in read(write([*splits, "test/x.png"])).notes
    )


def test_few_folders_below_a_class_are_no_patients_and_it_is_told(write):
    dataset = read(write([f"{c}/{p}/{i}.png" for c in "AB" for p in range(9) for i in range(2)]))
    assert not dataset.has_patients
    assert any("not taken as patients: each class needs 10" in note for note in dataset.notes)
    assert "9 folders have the same name in several classes; are they the classes?" in dataset.notes


def test_patients_of_the_same_name_in_two_classes_are_told(write):
    dataset = read(write([f"{c}/{p}/{i}.png" for c in "AB" for p in range(10) for i in range(2)]))
    assert "patients: 10 of these folders have the same name in several classes" in dataset.notes


@pytest.mark.parametrize("name", [b"A/gr\xf6\xdfe.png", b"A/two\nlines.png"])
def test_a_name_that_no_list_can_hold_is_refused(write, name):
    root = write(classes("AB"))
    os.rename(root / "A" / "A (0).png", os.path.join(os.fsencode(root), name))
    with pytest.raises(DataError, match="is not UTF-8 text, or has a control character; rename it"):
        read(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_refused(write):
    root = write([*classes("AB"), "C/0.png"])
    (root / "C").chmod(0)
    with pytest.raises(DataError, match="C: this folder cannot be read"):
        read(root)
