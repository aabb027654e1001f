"""CheXpert in its true form: prefixes of paths, laterals, blank and uncertain labels, splits."""

import pytest

from trainables.data.sets.chexpert import FINDINGS
from trainables.errors import DataError

NAMES = ("No Finding", *FINDINGS)
HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *NAMES])
SMALL = "CheXpert-v1.0-small"


def line(path, *, view="Frontal,AP", facts="Female,68", **labels):
    """Returns a row; labels are given with underscores for blanks, all others are blank."""
    values = {name.replace("_", " "): value for name, value in labels.items()}
    return ",".join([path, facts, view, *(values.get(name, "") for name in NAMES)])


def image(patient, *, split="train", study=1, view="view1_frontal", prefix=SMALL):
    return f"{prefix}/{split}/patient{patient:05}/study{study}/{view}.jpg"


def labels(i):
    return [
        {"Edema": "1.0", "Support_Devices": "1.0"},
        {"Edema": "0.0", "Pneumonia": "-1.0"},
        {"No_Finding": "1.0"},
    ][i % 3]


@pytest.fixture
def chexpert(release):
    def write(*, prefix=SMALL, extra=(), base=SMALL, also=(), **texts):
        train = [line(image(i, prefix=prefix), **labels(i)) for i in range(1, 61)]
        train += [line(image(1, study=2, prefix=prefix), **labels(1))]
        valid = [
            line(image(64541 + i, split="valid", prefix=prefix), **labels(2 * (i % 2))) for i in range(9)
        ]
        texts = {
            "train.csv": "\n".join([HEADER, *train, *extra]),
            "valid.csv": "\n".join([HEADER, *valid]),
            **texts,
        }
        paths = [row.partition(",")[0].removeprefix(f"{prefix}/") for row in [*train, *extra, *valid]]
        inside = f"{base}/" if base else ""
        root = release(
            [f"{inside}{p}" for p in [*paths, *also]], {inside + name: text for name, text in texts.items()}
        )
        return root

    return write


def of(dataset, patient, study=1):
    return next(r for r in dataset.records if f"patient{patient:05}/study{study}/" in r.image_id)


@pytest.mark.parametrize(
    ("prefix", "base"), [(SMALL, SMALL), (SMALL, ""), ("CheXpert-v1.0", SMALL), (SMALL, "CheXpert-v1.0")]
)
def test_the_prefix_of_paths_may_be_in_the_folder_or_not(chexpert, read, prefix, base):
    dataset = read("chexpert", chexpert(prefix=prefix, base=base))
    assert len(dataset.records) == 70
    assert len(dataset.findings) == 13
    record = of(dataset, 1)
    assert (record.patient_id, record.sex, record.age, record.view) == ("patient00001", "F", 68.0, "AP")
    assert of(dataset, 1, study=2).patient_id == "patient00001"


def test_a_root_that_is_the_folder_of_the_release_is_read(chexpert, read):
    assert len(read("chexpert", chexpert() / SMALL).records) == 70


def test_blank_is_unknown_but_negative_beside_no_finding(chexpert, read):
    dataset = read("chexpert", chexpert())
    positive, uncertain, none = of(dataset, 3), of(dataset, 1), of(dataset, 2)
    assert positive.labels["Edema"] == positive.labels["Support Devices"] == 1
    assert positive.labels["Fracture"] == -1
    assert positive.labels["No Finding"] == 0
    assert (uncertain.labels["Edema"], uncertain.labels["Pneumonia"]) == (0, -1)
    assert none.labels["Fracture"] == 0
    assert none.labels["Support Devices"] == -1
    assert "labels: 21 uncertain (-1) ignored" in dataset.notes
    assert "labels: 288 blank read as 0, because the image has no finding" in dataset.notes


def test_uncertain_labels_follow_the_setting_in_train_and_are_never_scored(chexpert, read):
    root = chexpert()
    before = read("chexpert", root)
    dataset = read("chexpert", root, uncertain={"Pneumonia": "ones"})
    uncertain = {r.image_id for r in before.records if r.labels["Pneumonia"] == -1 and r.labels["Edema"] == 0}
    of_split = {record.split: set() for record in dataset.records}
    for record, same in zip(dataset.records, before.records, strict=True):
        assert record.split == same.split
        if record.image_id in uncertain:
            of_split[record.split].add(record.labels["Pneumonia"])
    assert of_split == {"train": {1}, "val": {-1}, "test": set()}
    assert "labels: 21 uncertain (-1) read as 1 in train, and ignored in val and test" in dataset.notes


def test_every_reading_of_uncertain_and_blank_labels_has_its_own_fingerprint(chexpert, read):
    root = chexpert()
    settings = ({}, {"uncertain": "zeros"}, {"uncertain": "ones"}, {"blank": "zeros"})
    prints = [read("chexpert", root, **options).content_fingerprint for options in settings]
    assert len(set(prints)) == 4
    same = read("chexpert", root, uncertain={"Edema": "ones"})  # no label of Edema is uncertain
    assert same.content_fingerprint == prints[0]
    folds = [
        read("chexpert", root, uncertain="ones", num_folds=3, fold=k).content_fingerprint for k in (0, 1)
    ]
    assert folds == [prints[2]] * 2
    assert of(read("chexpert", root, blank="zeros"), 3).labels["Fracture"] == 0


def test_the_published_valid_is_test_and_the_choice_is_told(chexpert, read):
    dataset = read("chexpert", chexpert())
    assert {r.patient_id for r in dataset.records if r.split == "test"} == {
        f"patient{64541 + i:05}" for i in range(9)
    }
    assert len(dataset.indices("val")) > 0
    assert (
        "the published valid split is the test split, and val is drawn from train by patient" in dataset.notes
    )


def test_with_released_labels_of_test_valid_is_val(chexpert, read):
    """Its table has neither sex nor view, and the names of its folders differ."""
    paths = [image(64741 + i, split="test", prefix="x").removeprefix("x/") for i in range(6)]
    paths += [image(64741, split="test", view="view2_lateral", prefix="x").removeprefix("x/")]
    header = ",".join(["Path", *FINDINGS])
    rows = [
        f"{path},{','.join('1' if (i + k) % 2 else '0' for k in range(13))}" for i, path in enumerate(paths)
    ]
    root = chexpert(also=paths, **{"test_labels.csv": "\n".join([header, *rows])})
    dataset = read("chexpert", root)
    assert len(dataset.indices("val")) == 9
    assert len(dataset.indices("test")) == 6
    assert of(dataset, 64741).view == "FRONTAL"
    assert "the published valid split is val, and the released test split is test" in dataset.notes
    assert any("1 images that are not frontal" in note for note in dataset.notes)


def test_laterals_are_left_out_and_what_is_not_known_is_none(chexpert, read):
    extra = [
        line(image(101, view="view2_lateral"), view="Lateral,", **labels(0)),
        line(image(102), view="Frontal,LL", **labels(0)),
        line(image(103), facts="Unknown,0", **labels(0)),
        line(image(104), view="Frontal,", **labels(0)),
    ]
    root = chexpert(extra=extra)
    dataset = read("chexpert", root)
    assert len(dataset.records) == 72
    assert any(note.startswith("left out: 2 images that are not frontal") for note in dataset.notes)
    assert (of(dataset, 103).sex, of(dataset, 103).age) == (None, None)
    assert of(dataset, 104).view == "FRONTAL"
    assert len(read("chexpert", root, frontal_only=False).records) == 74


def test_rows_without_a_file_are_counted_and_two_files_of_an_image_are_refused(chexpert, read):
    root = chexpert(also=["train2/patient00002/study1/view1_frontal.jpg"])
    with pytest.raises(DataError, match=r"train2/patient00002/study1/view1_frontal\.jpg are one image"):
        read("chexpert", root)
    (root / SMALL / "train2/patient00002/study1/view1_frontal.jpg").unlink()
    (root / SMALL / "train/patient00002/study1/view1_frontal.jpg").unlink()
    assert "left out: 1 rows without a file" in read("chexpert", root).notes


def test_a_misspelt_finding_of_a_setting_is_answered_with_the_nearest(chexpert, read):
    with pytest.raises(DataError, match="'Edma' is no finding of chexpert; did you mean 'Edema'"):
        read("chexpert", chexpert(), uncertain={"Edma": "ones"})
