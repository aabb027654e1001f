"""A union of data sets in their true forms: NIH ChestX-ray14, BRAX, ChestMNIST and a manifest."""

import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from trainables.config import DataConfig
from trainables.data.datasets import files_of, load_dataset
from trainables.data.formats.decode import FileDecoder
from trainables.data.sets import brax, medmnist, nih14
from trainables.data.shared_findings import canonical
from trainables.errors import ConfigError, DataError

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """A folder with NIH's set (40 images, official splits) and BRAX (30 images, no splits)."""
    folder = tmp_path / "sets"
    names = [f"{i:08d}_000.png" for i in range(40)]
    labels = ["No Finding", "Effusion|Mass", "Pneumonia", "Cardiomegaly"]
    for i, name in enumerate(names):
        write_image(folder / "nih14/images" / name, i)
    lines = [f"{name},{labels[i % 4]},0,{i},58,F,PA" for i, name in enumerate(names)]
    (folder / "nih14/Data_Entry_2017.csv").write_text("\n".join([NIH, *lines]))
    (folder / "nih14/train_val_list.txt").write_text("\n".join(names[:32]))
    (folder / "nih14/test_list.txt").write_text("\n".join(names[32:]))
    rows = [f"PngPath,PatientID,ViewPosition,No Finding,{','.join(brax.FINDINGS)}"]
    for i in range(30):
        write_image(folder / f"brax/images/id_{i}/a.png", 100 + i)
        of = {"Pleural Effusion": "1.0" if i % 2 else "0.0", "Edema": "-1.0" if i % 3 == 0 else "0.0"}
        values = ",".join(of.get(name, "") for name in brax.FINDINGS)
        rows.append(f"images/id_{i}/a.png,{i},PA,,{values}")
    (folder / "brax" / brax.TABLE).write_text("\n".join(rows))
    return folder


def read(root, *names, **options):
    config = DataConfig(dataset="union", union=names or ("nih14", "brax"), root=root, **options)
    return load_dataset(config, with_test_labels=True)


def records_of(dataset, name):
    return [record for record in dataset.records if record.source == name]


def test_findings_are_joined_by_name_and_those_of_another_set_are_unknown(root):
    dataset = read(root)
    assert dataset.task == "multilabel"
    assert dataset.name == "nih14+brax"
    assert dataset.classes[-1] == "No Finding"
    assert set(dataset.findings) == {canonical(name) for name in (*nih14.FINDINGS, *brax.FINDINGS)}
    assert len(dataset.findings) == 20  # 14 of NIH, 13 of CheXpert, 7 of both
    nih = records_of(dataset, "nih14")[1].labels
    assert {name for name, value in nih.items() if value == 1} == {"Pleural Effusion", "Mass"}
    assert (nih["Pneumonia"], nih["Fracture"], nih["No Finding"]) == (0, -1, 0)
    healthy = records_of(dataset, "nih14")[0].labels
    assert (healthy["No Finding"], healthy["Pneumonia"], healthy["Lung Lesion"]) == (1, 0, -1)
    other = next(r for r in records_of(dataset, "brax") if "id_1/" in r.image_id).labels
    assert (other["Pleural Effusion"], other["Edema"], other["Mass"]) == (1, 0, -1)
    assert dataset.words.source == "chest_findings"


def test_ids_and_patients_begin_with_the_name_of_their_set_which_is_their_source(root):
    dataset = read(root)
    assert Counter(record.source for record in dataset.records) == {"nih14": 40, "brax": 30}
    for record in dataset.records:
        assert record.image_id.startswith(f"{record.source}/")
        assert record.patient_id.startswith(f"{record.source}/")
    assert (
        len({record.patient_id for record in dataset.records}) == 70
    )  # patient 3 of one is not 3 of the other


def test_splits_are_kept_or_drawn_for_each_set(root):
    dataset = read(root)
    nih, drawn = records_of(dataset, "nih14"), records_of(dataset, "brax")
    assert sorted(r.patient_id for r in nih if r.split == "test") == [f"nih14/{i}" for i in range(32, 40)]
    alone = load_dataset(DataConfig(dataset="nih14", root=root / "nih14"), with_test_labels=True)
    assert [r.split for r in nih] == [r.split for r in alone.records]
    assert Counter(r.split for r in drawn) == {"train": 21, "val": 3, "test": 6}
    assert any(note.startswith("nih14: split 'val' is not given") for note in dataset.notes)


def test_folds_are_cut_over_all_sets(root):
    folds = [read(root, num_folds=3, fold=k) for k in range(3)]
    tested = [record for fold in folds for record in fold.records if record.split == "test"]
    assert len({record.image_id for record in tested}) == len(tested) == 70
    assert not any("split 'val'" in note for note in folds[0].notes)


def test_notes_say_what_is_joined_and_what_is_unknown_where(root):
    notes = read(root).notes
    assert notes[0] == "images of 2 data sets are joined: nih14 40, brax 30"
    shared = next(note for note in notes if note.startswith("findings of every data set: "))
    assert shared.partition(": ")[2].split(", ") == [
        *("Atelectasis", "Cardiomegaly", "Pleural Effusion", "Pneumonia", "Pneumothorax"),
        *("Consolidation", "Edema"),
    ]
    assert any(note.startswith("unknown in nih14: Enlarged Cardiomediastinum, ") for note in notes)
    assert any(note.startswith("brax: labels: ") for note in notes)


def test_test_labels_are_withheld(root):
    dataset = load_dataset(DataConfig(dataset="union", union=("nih14", "brax"), root=root))
    assert {bool(record.labels) for record in dataset.records if record.split == "test"} == {False}


def test_each_set_decodes_its_images(root):
    labels = np.eye(14, dtype=np.uint8)
    rng = np.random.default_rng(0)
    arrays = {f"{split}_labels": labels for split in ("train", "val", "test")}
    arrays |= {f"{s}_images": rng.integers(0, 256, (14, 28, 28), np.uint8) for s in ("train", "val", "test")}
    (root / "medmnist").mkdir()
    np.savez(root / "medmnist/chestmnist.npz", **arrays)
    dataset = read(root, "brax", "medmnist")
    decode = pickle.loads(pickle.dumps(dataset.decode))  # workers get it this way
    array, file = records_of(dataset, "medmnist")[0], records_of(dataset, "brax")[0]
    assert array.image_id == "medmnist/chestmnist/test/00000"
    assert np.array_equal(decode(array), arrays["test_images"][0])
    assert np.array_equal(decode(file), np.asarray(Image.open(file.path)))
    assert set(medmnist.FINDINGS.values()) < set(dataset.findings)
    assert "no patient ids in medmnist: each image counts as one patient" in dataset.notes
    assert not dataset.has_patients


def test_files_can_be_examined_and_copied_also_behind_a_link(root, tmp_path):
    moved = tmp_path / "elsewhere"
    (root / "brax").rename(moved)
    (root / "brax").symlink_to(moved)
    dataset = read(root)
    assert isinstance(dataset.decode, FileDecoder)
    assert dataset.decode.place(records_of(dataset, "brax")[0]).startswith("brax/images/id_0/a.png (master_")
    files = files_of(DataConfig(dataset="union", union=("nih14", "brax"), root=root))
    assert len(files) == 70 + 4
    assert files[f"brax/{brax.TABLE}"] == moved / brax.TABLE
    assert files["nih14/test_list.txt"] == root / "nih14/test_list.txt"


def test_an_image_of_two_sets_is_read_once(root):
    copied = (root / "nih14/images/00000003_000.png").read_bytes()
    (root / "brax/images/id_3/a.png").write_bytes(copied)
    dataset = read(root)
    assert len(records_of(dataset, "brax")) == 29
    assert "brax: left out: 1 images that nih14 also has" in dataset.notes


def test_uncertain_labels_and_new_names_are_those_of_the_union(root):
    dataset = read(root, uncertain={"Edema": "ones", "Effusion": "zeros"}, rename={"Lung Lesion": "Nodule"})
    in_train = [r.labels["Edema"] for r in records_of(dataset, "brax") if r.split == "train"]
    assert Counter(in_train)[1] > 0
    assert -1 not in in_train
    assert "Lung Lesion" not in dataset.findings
    assert "Nodule" in dataset.findings


def test_images_are_excluded_by_their_ids_in_the_union(root, tmp_path):
    (tmp_path / "bad.txt").write_text("nih14/images/00000003_000.png\nbrax/images/id_4/a.png\n")
    dataset = read(root, exclude=tmp_path / "bad.txt")
    assert len(dataset.records) == 68
    assert "nih14: excluded: 1 images listed in an exclude file" in dataset.notes
    (tmp_path / "unmet.txt").write_text("nih14/images/nothing.png\n")
    with pytest.raises(DataError, match=r"line 1: 'nih14/images/nothing\.png'"):
        read(root, exclude=tmp_path / "unmet.txt")


def test_a_manifest_of_findings_can_be_joined(root):
    lines = ["path,label"]
    for i in range(20):
        write_image(root / f"manifest/{i}.png", 300 + i)
        lines.append(f"{i}.png,{['Effusion|Oddity', 'No Finding'][i % 2]}")
    (root / "manifest/manifest.csv").write_text("\n".join(lines))
    dataset = read(root, "nih14", "manifest")
    assert dataset.findings[-1] == "Oddity"
    labels = records_of(dataset, "manifest")[0].labels
    assert (labels["Pleural Effusion"], labels["Oddity"], labels["Mass"]) == (1, 1, -1)


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (("nih14", "chexpret"), {}, ConfigError, "no data set 'chexpret'; did you mean 'chexpert'"),
        (("nih14", "rsna"), {}, ConfigError, "rsna has no findings.*: padchest, vindr_cxr"),
        (("nih14", "phantom"), {}, ConfigError, "phantom has no findings"),
        (("nih14", "nih14"), {}, ConfigError, "nih14 is named twice"),
        (("nih14", "medmnist"), {}, ConfigError, "medmnist and nih14 have images of the same patients"),
        (("nih14", "padchest"), {}, DataError, r"has no folder 'padchest'.*ln -s FOLDER"),
        (("nih14", "brax"), {"rename": {"Edemma": "x"}}, DataError, r"data\.rename: 'Edemma' .* 'Edema'"),
        (("nih14", "brax"), {"uncertain": {"Edma": "ones"}}, DataError, r"uncertain: 'Edma' .* 'Edema'"),
    ],
)
def test_mistakes_are_named(root, names, options, error, message):
    with pytest.raises(error, match=message):
        read(root, *names, **options)


def test_a_union_cannot_be_adapted_on(root):
    other = {"dataset": "union", "root": root}
    config = DataConfig(dataset="nih14", root=root / "nih14", captions="report", adapt_on=other)
    with pytest.raises(ConfigError, match=r"data\.adapt_on\.dataset: a union cannot be adapted on"):
        load_dataset(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "union"}, "joins at least two data sets"),
        ({"dataset": "union", "union": ["nih14"]}, "joins at least two data sets"),
        (
            {"dataset": "nih14", "union": ["nih14", "brax"]},
            r"data\.dataset=union, but data\.dataset is nih14",
        ),
    ],
)
def test_a_union_needs_its_sets(options, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**options)
