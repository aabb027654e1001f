"""What differs in this room between classes that exclude each other and several findings per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from trainables.config import Split, Task
from trainables.data.records import NO_FINDING, ImageRecord
from trainables.errors import ConfigError, DataError

ANY_FINDING = "any finding"
"""The images that have at least one finding."""
Sentences = Mapping[str, list[str]]
"""Class or finding → sentences about it."""


@dataclass(frozen=True)
class TaskData:
    """How the data of a task are grouped, split, checked, and contradicted.

    Attributes:
        groups: targets (`Dataset.targets`) → group of each image, int64 [N]. Images of a group are positives
            of each other.
        strata: (records, patients str [N], number of parts) → stratum of each record, str [N]. Each part of
            the records gets an equal share of every stratum.
        check_complete: raises `DataError` if a split of (records, classes) cannot be used.
        contrary: sentences → the sentences against which each class is scored, or None if classes are scored
            against each other.
        look: record → the kind of image that it should look like, or None if its labels do not say.
    """

    groups: Callable[[np.ndarray], np.ndarray]
    strata: Callable[[Sequence[ImageRecord], np.ndarray, int], np.ndarray]
    check_complete: Callable[[Sequence[ImageRecord], Sequence[str]], None]
    contrary: Callable[[Sentences], dict[str, list[str]] | None]
    look: Callable[[ImageRecord], str | None]


def _classes(targets: np.ndarray) -> np.ndarray:
    return targets


def _equal_rows(labels: np.ndarray) -> np.ndarray:
    """Returns the number of each image's set of labels, int64 [N]. Unknown labels must be equal too."""
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _by_class(records: Sequence[ImageRecord], patients: np.ndarray, num_parts: int) -> np.ndarray:
    """Returns the class of each record. Raises DataError if a class has too few patients."""
    strata = np.array([_present(record)[0] for record in records])
    for name, num_patients in _num_patients(strata, patients).items():
        if num_patients < num_parts:
            raise DataError(
                f"class '{name}' has {num_patients} patients, too few for one in each of {num_parts} parts; "
                f"add images, name the splits yourself, or lower data.num_folds"
            )
    return strata


def _by_rarest_finding(records: Sequence[ImageRecord], patients: np.ndarray, num_parts: int) -> np.ndarray:
    """Returns the rarest finding that each record has, so that rare findings are in every part.

    Findings with too few patients form one stratum. A finding may be missing in a part; its metrics are then
    undefined there.
    """
    counts = Counter(name for record in records for name in _present(record))
    strata = np.array([min(_present(record), key=lambda n: (counts[n], n), default="") for record in records])
    if len(np.unique(patients)) < num_parts:
        raise DataError(
            f"the images are of {len(np.unique(patients))} patients, too few for {num_parts} parts; add "
            "images, name the splits yourself, or lower data.num_folds"
        )
    rare = [name for name, number in _num_patients(strata, patients).items() if number < num_parts]
    strata[np.isin(strata, rare)] = ""
    if _num_patients(strata, patients).get("", num_parts) < num_parts:
        strata[strata == ""] = Counter(strata.tolist()).most_common(1)[0][0]
    return strata


def _num_patients(strata: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    return {str(name): len(np.unique(patients[strata == name])) for name in np.unique(strata)}


def _present(record: ImageRecord) -> list[str]:
    return [name for name, value in record.labels.items() if value == 1]


def _check_each_class(records: Sequence[ImageRecord], classes: Sequence[str]) -> None:
    for split in get_args(Split):
        present = {name for record in records if record.split == split for name in _present(record)}
        if missing := [name for name in classes if name not in present]:
            raise DataError(
                f"split '{split}' has no image of {', '.join(missing)}; "
                f"every split needs every class, or its metrics are undefined"
            )


def _check_some_finding(records: Sequence[ImageRecord], classes: Sequence[str]) -> None:
    """Raises DataError for a split in which no finding has both a positive and a negative image."""
    for split in get_args(Split):
        seen = {item for record in records if record.split == split for item in record.labels.items()}
        if not any({(name, 1), (name, 0)} <= seen for name in classes if name != NO_FINDING):
            raise DataError(
                f"split '{split}' has no finding with a positive and a negative image, so no metric is "
                "defined; change the splits, or data.uncertain and data.blank if most labels are unknown"
            )


def _none(sentences: Sentences) -> None:
    del sentences


def _no_finding(sentences: Sentences) -> dict[str, list[str]]:
    """Returns the sentences of `NO_FINDING` for every finding; for `NO_FINDING` those of all findings."""
    if NO_FINDING not in sentences:
        raise ConfigError(f"the words have no class '{NO_FINDING}', against which findings are scored")
    findings = [text for name, of_finding in sentences.items() if name != NO_FINDING for text in of_finding]
    return {name: findings if name == NO_FINDING else sentences[NO_FINDING] for name in sentences}


def _own_class(record: ImageRecord) -> str | None:
    return next(iter(_present(record)), None)


def _with_or_without_finding(record: ImageRecord) -> str | None:
    """Returns `NO_FINDING` or `ANY_FINDING`: one finding has few images, and it changes a film little."""
    present = _present(record)
    return NO_FINDING if NO_FINDING in present else ANY_FINDING if present else None


TASKS: dict[Task, TaskData] = {
    "multiclass": TaskData(_classes, _by_class, _check_each_class, _none, _own_class),
    "multilabel": TaskData(
        _equal_rows, _by_rarest_finding, _check_some_finding, _no_finding, _with_or_without_finding
    ),
}
