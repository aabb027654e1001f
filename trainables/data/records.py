"""The record of a radiograph, and a data set of records with splits. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainables.config import Split, Task
from trainables.data.reports.captions import ReportCaptions
from trainables.data.words.words import Words

NO_FINDING = "No Finding"
"""The label of an image without any finding. It is the last class of a multi-label data set that has it."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image with identity, split and labels. Test labels are withheld (`{}`), except in `evaluate`."""

    image_id: str
    patient_id: str
    split: Split
    labels: Mapping[str, int]  # class or finding → 1, 0 or -1 (unknown); {} = withheld
    train_labels: Mapping[str, int] | None = None  # if they differ: `labels`, should the image be in train
    path: Path | None = None  # None for procedural images
    report_text: str | None = field(default=None, repr=False)  # private, so in no message
    finding_text: str | None = None  # one more sentence for captions of kind `finding`
    mask_path: Path | None = None
    source: str | None = None  # the origin of the image, for the shortcut audits
    infection_mask_path: Path | None = None
    view: str | None = None  # such as "PA" (trainables.data.views)
    sex: str | None = None  # "F" or "M"
    age: float | None = None  # years


@dataclass(frozen=True)
class LabelledImages:
    """What the reader of a data set returns: every image with its label, and how to decode an image.

    If `has_splits` is false, the splits of the records are ignored and drawn by `load_dataset`.
    """

    classes: tuple[str, ...]
    records: Sequence[ImageRecord]
    content: Mapping[str, str]  # image_id → what determines the pixels, such as the file's SHA-256
    decode: Callable[[ImageRecord], np.ndarray]  # returns uint8 [H, W]; DataError names the file
    has_splits: bool = True
    tables: Sequence[Path] = ()  # files that were read in addition to the images
    notes: tuple[str, ...] = ()  # see `Dataset`
    split_notes: tuple[str, ...] = ()  # notes about the splits, which do not hold for folds
    details: tuple[str, ...] = ()  # see `Dataset`
    has_patients: bool = True  # see `Dataset`
    words: str | None = None  # the file in `data/words/` for the classes of this data set
    task: Task = "multiclass"


@dataclass(frozen=True)
class Dataset:
    """A data set: records sorted by image_id, their classes, and how to decode an image.

    `content_fingerprint` covers images, patients and labels; `fingerprint` also covers the splits and the
    fold.
    """

    name: str
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    content_fingerprint: str
    fingerprint: str
    decode: Callable[[ImageRecord], np.ndarray] = field(compare=False)  # uint8 [H, W], any size
    task: Task = "multiclass"
    descriptions: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    """image_id → a description of the image without its label (`trainables.training.descriptions`)."""
    reports: ReportCaptions = field(default_factory=ReportCaptions, compare=False, repr=False)
    """The sentences of train reports, if `data.captions` is `report` (`trainables.data.reports`)."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know about the data: short sentences without paths and ids."""
    details: tuple[str, ...] = field(default=(), compare=False)
    """How the files were read, for the user at this machine; may name files."""
    has_patients: bool = True
    """False: the data set has no patient ids, so splits and intervals are by image. Needs no note."""
    words: Words = field(default_factory=Words, compare=False)
    """The words of captions and prompts; not part of the fingerprints of the data set."""

    def indices(self, *splits: Split) -> np.ndarray:
        """Returns the positions of the records of these splits, ascending, int64 [N]."""
        return np.array(
            [i for i, record in enumerate(self.records) if record.split in splits], dtype=np.int64
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """The classes that macro averages cover: all but `NO_FINDING`."""
        return tuple(name for name in self.classes if name != NO_FINDING)

    def targets(self, indices: np.ndarray) -> np.ndarray:
        """Returns what the images are scored against: the class of each one, or every label of each one.

        int64 [N] for multiclass; int8 [N, K] of 1, 0 and -1 (unknown) for multilabel.

        Raises:
            ValueError: a label is withheld; only `evaluate` can read test labels.
        """
        return self.class_indices(indices) if self.task == "multiclass" else self.label_matrix(indices)

    def label_matrix(self, indices: np.ndarray) -> np.ndarray:
        """Returns every label of these records, int8 [N, K]: 1, 0 or -1 (unknown).

        Raises:
            ValueError: a label is withheld.
        """
        rows = [self._labels_of(self.records[i]) for i in indices]
        return np.array(rows, dtype=np.int8).reshape(len(rows), len(self.classes))

    def class_indices(self, indices: np.ndarray) -> np.ndarray:
        """Returns the class (0…K-1) of each of these records of a multi-class data set, int64 [N].

        Raises:
            ValueError: a label is withheld; only `evaluate` can read test labels.
        """
        return np.array([self._class_index(self.records[i]) for i in indices], dtype=np.int64)

    def present(self, index: int) -> tuple[str, ...]:
        """Returns the classes or findings of one record. Unknown and withheld labels are left out."""
        return tuple(name for name, value in self.records[index].labels.items() if value == 1)

    def known_labels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the labels of these records, int8 [N, K]; unknown and withheld labels are -1."""
        rows = [[self.records[i].labels.get(name, -1) for name in self.classes] for i in indices]
        return np.array(rows, dtype=np.int8).reshape(len(rows), len(self.classes))

    def class_of(self, index: int) -> str | None:
        """Returns the class of one record, or None if its label is withheld."""
        return next((name for name, value in self.records[index].labels.items() if value == 1), None)

    def _class_index(self, record: ImageRecord) -> int:
        return self._labels_of(record).index(1)

    def _labels_of(self, record: ImageRecord) -> list[int]:
        if not record.labels:
            raise ValueError(f"the label of {record.image_id} ({record.split}) is withheld")
        return [record.labels[name] for name in self.classes]

    def patients(self, indices: np.ndarray) -> np.ndarray:
        """Returns the patient of each of these records, str [N]."""
        return np.array([self.records[i].patient_id for i in indices])


def one_hot(classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns class → `ImageRecord.labels`; all records of a class share one mapping."""
    return {name: {other: int(other == name) for other in classes} for name in classes}
