import pytest

from trainables.data.records import NO_FINDING, Dataset, ImageRecord
from trainables.data.summary import Counts, summarise

LABELS = {"Normal": {"Normal": 1, "TB": 0}, "TB": {"Normal": 0, "TB": 1}}


def record(number: int, name: str, split, **known) -> ImageRecord:
    patient = known.pop("patient", number)
    return ImageRecord(f"{number}.png", f"p{patient}", split, LABELS.get(name, {}), **known)


@pytest.fixture
def dataset() -> Dataset:
    records = (
        record(0, "Normal", "train", patient=0, source="A", view="PA", age=30.0),
        record(1, "Normal", "train", patient=0, source="A", view="AP", age=50.0),
        record(2, "TB", "val", source="B", view="PA"),
        record(3, "TB", "test", source="A", view=None),
        record(4, "withheld", "test", source="C"),
    )
    return Dataset("toy", ("Normal", "TB"), records, "content", "splits", lambda _: None)  # type: ignore[return-value, arg-type]


def test_images_and_patients_are_counted_by_class_and_split(dataset) -> None:
    summary = summarise(dataset)
    assert summary.images == Counts(("train", "val", "test"), {"Normal": (2, 0, 0), "TB": (0, 1, 1)})
    assert summary.patients == Counts(("train", "val", "test"), {"Normal": (1, 0, 0), "TB": (0, 1, 1)})
    assert summary.to_dict()["images"] == {"Normal": {"train": 2}, "TB": {"val": 1, "test": 1}}


def test_a_property_that_no_image_has_is_not_counted(dataset) -> None:
    summary = summarise(dataset)
    assert summary.sexes is None
    assert summary.views == Counts(("PA", "AP", "unknown"), {"Normal": (1, 1, 0), "TB": (1, 0, 1)})
    assert summary.ages == {"Normal": (30.0, 40.0, 50.0)}


def test_a_source_of_one_class_is_marked(dataset) -> None:
    summary = summarise(dataset)
    assert summary.sources is not None
    assert summary.sources.totals == {"A": 3, "B": 1}
    assert summary.sources.one_class_columns == ("B",)
    assert Counts(("A",), {"Normal": (2,), "TB": (0,)}).one_class_columns == ()  # one source says nothing
    assert Counts(("A", "unknown"), {"Normal": (2, 1), "TB": (0, 3)}).one_class_columns == ()


@pytest.fixture
def findings() -> Dataset:
    """An image of train has both findings; the label of Hernia is unknown in val."""
    names = ("Edema", "Hernia", NO_FINDING)
    labels = [(1, 1, 0), (0, 0, 1), (1, -1, 0), (0, -1, -1), (0, 1, 0)]
    splits = ("train", "train", "val", "val", "test")
    records = tuple(
        ImageRecord(
            f"{i}.png", "p0" if i < 2 else f"p{i}", split, dict(zip(names, of, strict=True)), source="A"
        )
        for i, (of, split) in enumerate(zip(labels, splits, strict=True))
    )
    return Dataset("toy", names, records, "", "", lambda _: None, task="multilabel")  # type: ignore[return-value, arg-type]


def test_an_image_counts_for_each_of_its_findings(findings) -> None:
    summary = summarise(findings)
    assert summary.images.rows == {"Edema": (1, 1, 0), "Hernia": (1, 0, 1), NO_FINDING: (1, 0, 0)}
    assert summary.images.totals == {"train": 2, "val": 2, "test": 1}
    assert summary.patients is not None
    assert summary.patients.rows["Edema"] == (1, 1, 0)
    assert summary.sources is not None
    assert summary.sources.totals == {"A": 5}
    assert summary.num_several == 1


def test_unknown_labels_and_undefined_findings_are_told_by_split(findings) -> None:
    summary = summarise(findings)
    assert summary.unknown is not None
    assert summary.unknown.rows == {"Edema": (0, 0, 0), "Hernia": (0, 2, 0), NO_FINDING: (0, 1, 0)}
    assert summary.undefined == {
        "val": ("Hernia", NO_FINDING), "test": ("Edema", "Hernia", NO_FINDING),
    }  # fmt: skip
    assert summary.to_dict()["undefined"]["val"] == ["Hernia", NO_FINDING]


def test_classes_have_no_unknown_labels_and_no_undefined_findings(dataset) -> None:
    summary = summarise(dataset)
    assert (summary.unknown, summary.num_several, summary.undefined) == (None, 0, {})
