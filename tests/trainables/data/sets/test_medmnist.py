import pickle

import numpy as np
import pytest

from trainables.config import DataConfig
from trainables.data.datasets import files_of, load_dataset
from trainables.data.sets import medmnist
from trainables.errors import DataError


def read(root, **options):
    return load_dataset(DataConfig(dataset="medmnist", root=root, **options), with_test_labels=True)


def arrays(counts=(8, 4, 4), size=28):
    """Images of noise with labels 0, 1, 0, 1, … in the published form."""
    rng = np.random.default_rng(0)
    found = {}
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        found[f"{split}_images"] = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        found[f"{split}_labels"] = np.arange(count).reshape(-1, 1).astype(np.uint8) % 2
    return found


@pytest.fixture
def write(tmp_path):
    """Writes arrays to a file in the root; returns the root."""

    def write(name="pneumoniamnist.npz", **changes):
        (tmp_path / "mnist").mkdir(exist_ok=True)
        np.savez_compressed(tmp_path / "mnist" / name, **(arrays() | changes))
        return tmp_path / "mnist"

    return write


def test_splits_classes_and_pixels_are_those_of_the_arrays(write):
    dataset = read(write())
    assert dataset.classes == ("Normal", "Pneumonia")
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [8, 4, 4]
    assert not dataset.has_patients
    decode = pickle.loads(pickle.dumps(dataset.decode))  # workers get it this way
    for record in dataset.records:
        _, split, number = record.image_id.split("/")
        assert split == record.split
        assert record.labels["Pneumonia"] == int(number) % 2
        assert np.array_equal(decode(record), arrays()[f"{split}_images"][int(number)])
    assert any("val are optimistic" in note for note in dataset.notes)


def test_copies_of_val_and_test_are_left_out_of_train_and_counted(write):
    given = arrays()
    given["train_images"][3] = given["val_images"][1]
    given["train_images"][4] = given["test_images"][2]
    dataset = read(write(**given))
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [6, 4, 4]
    assert "left out: 2 images of train that are identical to an image of val or test" in dataset.notes


def test_images_are_excluded_and_classes_renamed_as_in_a_folder(write, tmp_path):
    (tmp_path / "bad.txt").write_text("pneumoniamnist/train/00002\n")
    dataset = read(write(), exclude=tmp_path / "bad.txt", rename={"Pneumonia": "ill"})
    assert dataset.classes == ("Normal", "ill")
    assert len(dataset.indices("train")) == 7


def test_the_file_is_what_is_copied_to_other_machines(write):
    root = write()
    assert files_of(DataConfig(dataset="medmnist", root=root)) == {
        "pneumoniamnist.npz": root / "pneumoniamnist.npz"
    }


def test_of_several_sizes_one_must_be_named(write):
    root = write()
    write("pneumoniamnist_64.npz", **arrays(size=64))
    with pytest.raises(DataError, match=r"choose one: --set data\.manifest=pneumoniamnist\.npz"):
        read(root)
    dataset = read(root, manifest="pneumoniamnist_64.npz")
    assert dataset.decode(dataset.records[0]).shape == (64, 64)


def chest_labels(count):
    """Labels [N, 14]: image 0 has none, image i > 0 has finding i modulo 14, every third one two."""
    labels = np.zeros((count, 14), np.uint8)
    for i in range(1, count):
        labels[i, [i % 14, 13] if i % 3 == 0 else [i % 14]] = 1
    return labels


def test_chestmnist_has_fourteen_findings_in_the_order_of_its_columns(write):
    labels = {f"{split}_labels": chest_labels(n) for split, n in (("train", 8), ("val", 4), ("test", 4))}
    dataset = read(write("chestmnist_64.npz", **labels))
    assert dataset.task == "multilabel"
    assert dataset.findings[2] == "Pleural Effusion"  # `effusion`
    assert dataset.findings[12] == "Pleural Thickening"  # `pleural`
    assert len(dataset.findings) == 14
    matrix = dataset.label_matrix(dataset.indices("train"))
    assert np.array_equal(matrix[:, :-1], labels["train_labels"])
    assert matrix[:, -1].tolist() == [1] + [0] * 7  # none of the findings
    assert np.array_equal(dataset.decode(dataset.records[0]), arrays()["test_images"][0])
    assert not any("PneumoniaMNIST" in note for note in dataset.notes)


def test_chestmnist_beside_pneumoniamnist_must_be_named(write):
    write()
    root = write(
        "chestmnist.npz",
        **{f"{s}_labels": chest_labels(n) for s, n in (("train", 8), ("val", 4), ("test", 4))},
    )
    with pytest.raises(DataError, match=r"has chestmnist\.npz, pneumoniamnist\.npz; choose one"):
        read(root)
    assert read(root, manifest="chestmnist.npz").task == "multilabel"
    assert read(root, manifest="pneumoniamnist.npz").task == "multiclass"


def test_chestmnist_with_other_labels_is_refused(write):
    with pytest.raises(
        DataError, match=r"test_labels is uint8 \[4, 1\]; 14 numbers for each of the 4 images"
    ):
        read(write("chestmnist.npz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.array([["a"]] * 4, dtype=object)}, "val_labels has Python objects"),
        ({"train_images": np.zeros((8, 28, 28, 3), np.uint8)}, r"train_images is uint8 \[8, 28, 28, 3\]"),
        ({"test_images": np.zeros((4, 28, 28), np.float32)}, "test_images is float32"),
        ({"train_labels": np.zeros((7, 1), np.uint8)}, r"train_labels is uint8 \[7, 1\]"),
        ({"train_labels": np.full((8, 1), 2, np.uint8)}, "label '2' is none of 'Normal', 'Pneumonia'"),
    ],
)
def test_other_arrays_are_refused_by_name(write, changes, message):
    with pytest.raises(DataError, match=message):
        read(write(**changes))


def test_an_array_is_refused_by_its_header_before_it_is_loaded(write, monkeypatch):
    monkeypatch.setattr(medmnist, "MAX_BYTES", 5000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("was loaded"))
    root = write(train_images=np.zeros((8, 28, 28), np.uint8), train_labels=np.zeros((8, 1), np.uint8))
    with pytest.raises(DataError, match="train_images has 6,272 bytes, the limit is 5,000"):
        medmnist.read_split(root / "pneumoniamnist.npz", "train")


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_damaged_file_is_told(tmp_path, content):
    (tmp_path / "pneumoniamnist.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz: cannot be read.*download"):
        read(tmp_path)


def test_a_missing_array_and_a_missing_file_are_told(write, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz.* is expected in"):
        read(tmp_path / "empty")
    np.savez(tmp_path / "pneumoniamnist.npz", train_images=np.zeros(3))
    with pytest.raises(DataError, match="test_images"):
        read(tmp_path)


def test_pneumoniamnist_has_its_published_counts_but_for_the_copies(pneumoniamnist_root):
    dataset = read(pneumoniamnist_root)
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [4698, 524, 624]
    labels = [dataset.class_indices(dataset.indices(split)) for split in ("val", "test")]
    assert [np.bincount(each).tolist() for each in labels] == [[135, 389], [234, 390]]
    assert "left out: 10 images of train that are identical to an image of val or test" in dataset.notes
