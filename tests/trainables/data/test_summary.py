import pytest

from trainables.data.records import Dataset, ImageRecord
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
