"""Counts what a data set contains: images and patients of each class by split, source, view and sex."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from trainables.config import Split
from trainables.data.records import Dataset, ImageRecord

UNKNOWN = "unknown"
AGE_QUANTILES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Counts:
    """A number for each class (row) and each value of a property (column), e.g. each split."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]

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
        """The sum of each column."""
        return dict(zip(self.columns, map(sum, zip(*self.rows.values(), strict=True)), strict=True))

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

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON-like values."""
        tables = {"images": self.images, "patients": self.patients, "sources": self.sources}
        tables |= {"views": self.views, "sexes": self.sexes}
        found: dict[str, Any] = {name: table and table.to_dict() for name, table in tables.items()}
        return found | {"ages": {name: list(ages) for name, ages in self.ages.items()}}


def summarise(dataset: Dataset) -> Summary:
    """Returns the counts of a data set. Records with a withheld label are left out."""
    known = [(dataset.class_of(i), record) for i, record in enumerate(dataset.records)]
    labelled = [(name, record) for name, record in known if name is not None]
    splits = get_args(Split)
    patients = {(name, record.split, record.patient_id): record for name, record in labelled}
    of_patients = [(name, record) for (name, _, _), record in patients.items()]

    def by(of: Callable[[ImageRecord], str | None]) -> Counts | None:
        if all(of(record) is None for _, record in labelled):
            return None
        return count(dataset.classes, [(name, of(record) or UNKNOWN) for name, record in labelled])

    ages: dict[str, list[float]] = {name: [] for name in dataset.classes}
    for name, record in labelled:
        ages[name] += [] if record.age is None else [record.age]
    return Summary(
        images=count(dataset.classes, [(name, record.split) for name, record in labelled], splits),
        patients=count(dataset.classes, [(name, record.split) for name, record in of_patients], splits)
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
    )


def count(classes: tuple[str, ...], pairs: list[tuple[str, str]], columns: tuple[str, ...] = ()) -> Counts:
    """Counts pairs of class and value. Default columns: the values, the most frequent first."""
    counts, totals = Counter(pairs), Counter(value for _, value in pairs)
    names = columns or tuple(sorted(totals, key=lambda value: (value == UNKNOWN, -totals[value], value)))
    return Counts(names, {name: tuple(counts[name, value] for value in names) for name in classes})
