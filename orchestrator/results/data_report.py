"""What `data check` found in a data set: as sentences, and as JSON-like values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from trainables.config import Task
from trainables.data.records import Dataset
from trainables.data.summary import Counts, Summary, count
from trainables.data.survey import FACTS, Survey
from trainables.data.tasks import TASKS
from trainables.scoring.audit import AuditReport, Finding
from trainables.scoring.sources import class_sources

MAX_NAMED = 8
"""Values of a property, such as sources, that a sentence names."""
REVEALING = {"formats", "sources", "views"}
"""Properties of an image that a model may learn instead of the class."""
BY_IMAGE = "no patient ids are known, so splits and intervals are by image"


class Words(NamedTuple):
    """What one label is called and several are, and the kinds of images that should look alike."""

    label: str
    labels: str
    kind: str
    kinds: str


WORDS: dict[Task, Words] = {
    "multiclass": Words("class", "classes", "class", "classes"),
    "multilabel": Words("finding", "findings", "kind", "kinds"),
}


@dataclass(frozen=True)
class DataReport:
    """The counts, the facts of every image, and the findings of a data set."""

    dataset: Dataset
    summary: Summary
    survey: Survey
    audit: AuditReport

    @cached_property
    def class_medians(self) -> dict[str, tuple[float, float]]:
        """The median brightness of border and centre, by class, or with and without a finding."""
        looks = np.array([self.look(image) or "" for image in range(len(self.survey))])
        return {
            name: (float(np.median(self.survey.border[of])), float(np.median(self.survey.centre[of])))
            for name in sorted(set(looks.tolist()) - {""})
            for of in [looks == name]
        }

    def look(self, image: int) -> str | None:
        """Returns the kind of images that an image should look like, such as its class."""
        return TASKS[self.dataset.task].look(self.dataset.records[image])

    @property
    def words(self) -> Words:
        """What labels are called."""
        return WORDS[self.dataset.task]

    @cached_property
    def tables(self) -> dict[str, Counts]:
        """The counts by class of each property that is known, by its name in the plural."""
        tables = {"sources": self.summary.sources, "views": self.summary.views, "sexes": self.summary.sexes}
        named = enumerate(self.survey.formats)
        formats = [(self.dataset.present(i), found) for i, found in named if found is not None]
        tables |= {"formats": count(self.dataset.classes, formats) if formats else None}
        return {name: counts for name, counts in tables.items() if counts is not None}

    def lines(self) -> Iterator[str]:
        """Yields the sentences below the table of images and patients."""
        for name, counts in self.tables.items():
            yield f"{name}: {_shortened([f'{value} {total:,}' for value, total in counts.totals.items()])}"
        yield from self.facts()
        for finding in self.findings():
            yield from finding.lines()

    def facts(self) -> Iterator[str]:
        """Yields what is known of the images and patients as a whole."""
        if not self.dataset.has_patients:
            yield BY_IMAGE
        if ages := self.summary.ages:
            youngest = min(low for low, _, _ in ages.values())
            oldest = max(high for _, _, high in ages.values())
            medians = ", ".join(f"{name} {median:g}" for name, (_, median, _) in ages.items())
            yield f"ages: {youngest:g} to {oldest:g} years, medians: {medians}"
        yield from self._labels()
        yield from self.dataset.details
        yield from self.dataset.notes
        heights, widths, means = self.survey.height, self.survey.width, self.survey.mean
        if greys := Counter(value for value in self.survey.greys if value is not None):
            yield f"greys: {_shortened([f'{value} ({n:,})' for value, n in greys.most_common()])}"
        yield f"images: {heights.min()} to {heights.max()} px high, {widths.min()} to {widths.max()} px wide"
        yield f"mean brightness: {means.min():.0f} to {means.max():.0f} of 255, median {np.median(means):.0f}"

    def _labels(self) -> Iterator[str]:
        """Yields what is known of the labels of a multi-label data set."""
        if self.dataset.task == "multiclass":
            return
        total = len(self.dataset.records)
        yield f"several findings: {self.summary.num_several:,} of {total:,} images"
        if unknown := self.summary.unknown:
            by_finding = {name: sum(numbers) for name, numbers in unknown.rows.items()}
            found = [f"{name} {n:,} ({n / total:.0%})" for name, n in by_finding.items() if n]
            yield f"unknown labels: {', '.join(found)}"

    def findings(self) -> Iterator[Finding]:
        """Yields what a person should look at."""
        for split, names in self.summary.undefined.items():
            yield Finding(
                f"{split} has no positive or no negative image of {', '.join(names)}, so its metrics are "
                "undefined there"
            )
        yield from self.audit.findings()
        inverted = self.audit.inversions
        yield Finding(
            f"{len(inverted.images)} images look like negatives of their {self.words.kind}",
            tuple(self.inversion(image) for image in inverted.images),
        )
        for one, other in inverted.classes:
            yield Finding(f"{self.words.kinds} '{one}' and '{other}' look like negatives of each other")
        yield from self._warnings()
        for name in sorted(REVEALING & self.tables.keys()):
            counts = self.tables[name]
            if single := counts.one_class_columns:
                num_images = sum(counts.totals[value] for value in single)
                yield Finding(
                    f"{len(single)} of {len(counts.known)} {name} have images of one {self.words.label} only "
                    f"({num_images:,} of {len(self.survey):,} images), so a model may learn the {name} "
                    f"instead of the {self.words.labels}",
                    (_shortened(single),),
                )

    def _warnings(self) -> Iterator[Finding]:
        """Yields what the decoder warns of, the most frequent warning first."""
        images: dict[str, list[int]] = {}
        for image, warnings in enumerate(self.survey.warnings):
            for warning in warnings:
                images.setdefault(warning, []).append(image)
        for warning, warned in sorted(images.items(), key=lambda each: -len(each[1])):
            examples = tuple(self.audit.named(image) for image in warned)
            yield Finding(f"warning about {len(warned):,} images: {warning}", examples)

    def inversion(self, image: int) -> str:
        """Returns the sentence about an image that looks like a negative."""
        name = self.look(image) or ""
        border, centre = self.class_medians[name]
        return (
            f"{self.audit.named(image)}: border {self.survey.border[image]:.0f}, "
            f"centre {self.survey.centre[image]:.0f}; medians of {name}: {border:.0f} and {centre:.0f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-like values, with the facts of every image and without patient ids."""
        names = [record.image_id for record in self.dataset.records]
        return {
            "num_images": len(names),
            "bad_images": [],
            "has_patients": self.dataset.has_patients,
            "notes": list(self.dataset.notes),
            "details": list(self.dataset.details),
            **self.audit.to_dict(),
            "class_sources": class_sources(self.dataset),
            "counts": self.summary.to_dict(),
            "copies": [
                {
                    "files": [names[image] for image in group.images],
                    "is_exact": group.is_exact,
                    "across_splits": group.leak and [names[image] for image in group.leak],
                    "different_labels": group.contradiction and [names[i] for i in group.contradiction],
                }
                for group in self.audit.copies
            ],
            "inverted_images": [names[image] for image in self.audit.inversions.images],
            "class_medians": {
                name: {"border": border, "centre": centre}
                for name, (border, centre) in self.class_medians.items()
            },
            "images": [self._facts(image) for image in range(len(names))],
        }

    def _facts(self, image: int) -> dict[str, Any]:
        record = self.dataset.records[image]
        facts = {name: getattr(self.survey, name)[image].item() for name in FACTS}
        present = "|".join(self.dataset.present(image)) or None
        known = {"file": record.image_id, "split": record.split, "class": present}
        decoded = {"format": self.survey.formats[image], "greys": self.survey.greys[image]}
        return known | facts | decoded | {"warnings": self.survey.warnings[image]}


def _shortened(values: Sequence[str]) -> str:
    rest = len(values) - MAX_NAMED
    return ", ".join([*values[:MAX_NAMED], *([f"and {rest:,} more"] if rest > 0 else [])])


def counts_with_patients(images: Counts, patients: Counts | None) -> Iterator[tuple[str, ...]]:
    """Yields a row for each class or finding: its name, and for each split `images (patients)`."""
    for name, numbers in images.rows.items():
        of_patients = patients.rows[name] if patients else (None,) * len(numbers)
        cells = [
            f"{number:,}" + ("" if persons is None else f" ({persons:,})")
            for number, persons in zip(numbers, of_patients, strict=True)
        ]
        yield name, *cells
