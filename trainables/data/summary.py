"""Counts what a data set contains: images and patients of each class by split, source, view and sex."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from trainables.config import Split
from trainables.data.records import NO_FINDING, Dataset, ImageRecord

UNKNOWN = "unknown"
AGE_QUANTILES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Counts:
    """A number for each class (row) and each value of a property (column), e.g. each split."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]
    num_images: tuple[int, ...] | None = None
    """Number of images in each column. None = the sums of the rows, because each image is in one row."""

    @property
    def known(self) -> tuple[str, ...]:
        """The columns without the one that counts unknown values."""
        return tuple(name for name in self.columns if name != UNKNOWN)

    @property
    def one_class_columns(self) -> tuple[str, ...]:
        """The columns in which only one class has images, if there are several columns."""
        if len(self.known) < 2:
            return ()
        numbers = zip(*self.rows.values(), strict=True)
        num_classes = {
            name: sum(n > 0 for n in column) for name, column in zip(self.columns, numbers, strict=True)
        }
        return tuple(name for name in self.known if num_classes[name] == 1)

    @property
    def totals(self) -> dict[str, int]:
        """The number of images in each column."""
        numbers = self.num_images or tuple(map(sum, zip(*self.rows.values(), strict=True)))
        return dict(zip(self.columns, numbers, strict=True))

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Returns {class: {column: number}}, without zeros."""
        return {
            name: {column: n for column, n in zip(self.columns, row, strict=True) if n}
            for name, row in self.rows.items()
        }


@dataclass(frozen=True)
class Summary:
    """The counts of a data set. A property that no record has is None. Contains no id."""

    images: Counts  # by split
    patients: Counts | None  # by split; None = the data set has no patient ids
    sources: Counts | None
    views: Counts | None
    sexes: Counts | None
    ages: dict[str, tuple[float, ...]]  # class → youngest, median and oldest age in years; {} = not known
    unknown: Counts | None = None  # unknown labels, by split; None = every label is known
    num_several: int = 0  # images with several findings
    undefined: dict[Split, tuple[str, ...]] = field(default_factory=dict)
    """Split → findings without positive or without negative images, so their metrics are undefined there."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON-like values."""
        tables = {"images": self.images, "patients": self.patients, "sources": self.sources}
        tables |= {"views": self.views, "sexes": self.sexes, "unknown": self.unknown}
        found: dict[str, Any] = {name: table and table.to_dict() for name, table in tables.items()}
        found |= {"ages": {name: list(ages) for name, ages in self.ages.items()}}
        undefined = {split: list(names) for split, names in self.undefined.items()}
        return found | {"num_several": self.num_several, "undefined": undefined}


def summarise(dataset: Dataset) -> Summary:
    """Returns the counts of a data set. Records with a withheld label are left out."""
    labelled = [(dataset.present(i), record) for i, record in enumerate(dataset.records) if record.labels]
    splits = get_args(Split)
    of_patients = {(name, record.split, record.patient_id) for names, record in labelled for name in names}
    unknown = [
        (tuple(name for name, value in record.labels.items() if value == -1), record.split)
        for _, record in labelled
    ]

    def by(of: Callable[[ImageRecord], str | None]) -> Counts | None:
        if all(of(record) is None for _, record in labelled):
            return None
        return count(dataset.classes, [(names, of(record) or UNKNOWN) for names, record in labelled])

    ages: dict[str, list[float]] = {name: [] for name in dataset.classes}
    for names, record in labelled:
        for name in names:
            ages[name] += [] if record.age is None else [record.age]
    return Summary(
        images=count(dataset.classes, [(names, record.split) for names, record in labelled], splits),
        patients=count(dataset.classes, [((name,), split) for name, split, _ in of_patients], splits)
        if dataset.has_patients
        else None,
        sources=by(lambda record: record.source),
        views=by(lambda record: record.view),
        sexes=by(lambda record: record.sex),
        ages={
            name: tuple(np.quantile(values, AGE_QUANTILES).tolist())
            for name, values in ages.items()
            if values
        },
        unknown=count(dataset.classes, unknown, splits) if any(names for names, _ in unknown) else None,
        num_several=sum(len(set(names) - {NO_FINDING}) > 1 for names, _ in labelled),
        undefined={split: names for split in splits if (names := undefined_findings(dataset, split))},
    )


def undefined_findings(dataset: Dataset, split: Split) -> tuple[str, ...]:
    """Returns the findings without a positive or without a negative image in a split. Empty for classes."""
    if dataset.task == "multiclass":
        return ()
    labels = dataset.known_labels(dataset.indices(split))
    has_both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    return tuple(name for name, both in zip(dataset.classes, has_both, strict=True) if not both)


def count(
    classes: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], str]], columns: tuple[str, ...] = ()
) -> Counts:
    """Counts the images of each class or finding by a value, such as their split.

    Args:
        classes: the classes or findings.
        rows: for each image, what it shows, and its value.
        columns: the values. Default: those of the images, the most frequent first.
    """
    counts = Counter((name, value) for names, value in rows for name in names)
    totals = Counter(value for _, value in rows)
    columns = columns or tuple(sorted(totals, key=lambda value: (value == UNKNOWN, -totals[value], value)))
    in_rows = {name: tuple(counts[name, value] for value in columns) for name in classes}
    is_one_each = all(len(names) == 1 for names, _ in rows)
    return Counts(columns, in_rows, None if is_one_each else tuple(totals[value] for value in columns))
