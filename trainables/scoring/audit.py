"""Audits a data set: finds copies, leaks between splits, and images that look like negatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from trainables.config import Split
from trainables.data.problems import listed
from trainables.data.records import Dataset
from trainables.data.survey import Survey
from trainables.data.tasks import TASKS
from trainables.scoring.cells import area_means
from trainables.scoring.duplicates import (
    HASH_CELLS,
    OnProgress,
    look_alikes,
    nearest_unlike,
    perceptual_hash,
)
from trainables.scoring.inversions import Inversions, find_inversions

Pair = tuple[int, int]
"""Positions of two images in `dataset.records`."""


@dataclass(frozen=True)
class Copies:
    """A group of images that are copies of each other, by their positions in `dataset.records`."""

    images: tuple[int, ...]
    is_exact: bool  # True = the same pixels; False = nearly the same perceptual hash
    leak: Pair | None  # two of them that are in two splits, or None
    contradiction: Pair | None  # two of them with different labels, or None


@dataclass(frozen=True)
class Finding:
    """A sentence, and the examples that are listed below it."""

    sentence: str
    examples: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Returns the sentence, and below it the first examples."""
        return [self.sentence + (":" if self.examples else ""), *listed(self.examples)]


@dataclass(frozen=True)
class AuditReport:
    """What was found. `to_dict` returns only counts, without ids of images and patients."""

    dataset: Dataset
    shared_patients: tuple[str, ...]  # patients in more than one split
    copies: tuple[Copies, ...]
    inversions: Inversions

    @property
    def leaks(self) -> tuple[Copies, ...]:
        """The groups of copies that are in two splits."""
        return tuple(group for group in self.copies if group.leak)

    @property
    def twins(self) -> tuple[Copies, ...]:
        """The groups of copies that are in one split."""
        return tuple(group for group in self.copies if not group.leak)

    @property
    def contradictions(self) -> tuple[Copies, ...]:
        """The groups of copies that have different labels."""
        return tuple(group for group in self.copies if group.contradiction)

    @property
    def is_clean(self) -> bool:
        """True if nothing must be mended: no leak, no contradiction, and no image that looks inverted."""
        found = self.shared_patients, self.leaks, self.contradictions
        return not (any(found) or self.inversions.images or self.inversions.classes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts, without any id of an image or a patient."""
        return {
            "shared_patients": len(self.shared_patients),
            "exact_duplicates": sum(group.is_exact for group in self.leaks),
            "near_duplicates": sum(not group.is_exact for group in self.leaks),
            "twin_groups": len(self.twins),
            "images_with_twins": _num_images(self.twins),
            "contradictory_copies": len(self.contradictions),
            "suspected_inversions": len(self.inversions.images),
            "inverted_classes": [list(pair) for pair in self.inversions.classes],
        }

    def findings(self) -> list[Finding]:
        """Returns a sentence for each kind of finding, with the images that it is about."""
        leaks = {
            is_exact: [group.leak for group in self.leaks if group.leak and group.is_exact == is_exact]
            for is_exact in (True, False)
        }
        twins = [group.images for group in self.twins]
        contrary = [group.contradiction for group in self.copies if group.contradiction]
        shared = Finding(f"{len(self.shared_patients)} patients across splits", self.shared_patients)
        return [
            *([shared] if self.dataset.has_patients else []),
            Finding(f"{len(leaks[True])} groups of exact duplicates across splits", self._both(leaks[True])),
            Finding(f"{len(leaks[False])} groups of near duplicates across splits", self._both(leaks[False])),
            Finding(f"{_num_images(self.twins)} images have a copy in their split", self._both(twins[:1])),
            Finding(f"{len(contrary)} groups of copies with different labels", self._both(contrary)),
        ]

    def named(self, image: int) -> str:
        """Returns an image's id with its split and, if known, its class or findings."""
        record = self.dataset.records[image]
        return f"'{record.image_id}' ({', '.join([record.split, *self.dataset.present(image)])})"

    def _both(self, groups: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
        """Returns a text for each group, which names its first two images."""
        return tuple(" and ".join(map(self.named, images[:2])) for images in groups)


def audit(dataset: Dataset, survey: Survey, on_progress: OnProgress | None = None) -> AuditReport:
    """Finds leaks between splits, copies, and images that look like negatives.

    Images with withheld labels contradict no copies and are not judged as inverted.

    Args:
        dataset: the records.
        survey: the facts of these records.
        on_progress: receives the fraction of the pairs that are compared, in [0, 1].
    """
    sketches = [
        (perceptual_hash(batch), area_means(batch, HASH_CELLS, HASH_CELLS)) for batch in survey.thumbnails()
    ]
    hashes, cells = (np.concatenate(parts) for parts in zip(*sketches, strict=True))
    return AuditReport(
        dataset=dataset,
        shared_patients=_shared_patients(dataset),
        copies=find_copies(dataset, survey.digests, hashes, on_progress),
        inversions=find_inversions(cells, list(map(TASKS[dataset.task].look, dataset.records))),
    )


def find_copies(
    dataset: Dataset, digests: list[bytes], hashes: np.ndarray, on_progress: OnProgress | None = None
) -> tuple[Copies, ...]:
    """Returns the groups of copies: first those with equal digests, then those whose hashes are near.

    Args:
        dataset: the records.
        digests: equal for images with equal pixels.
        hashes: perceptual hash of each image, uint64 [N, 8].
        on_progress: see `audit`.
    """
    exact: dict[bytes, list[int]] = {}
    for image, digest in enumerate(digests):
        exact.setdefault(digest, []).append(image)
    groups = [(np.array(group), True) for group in exact.values() if len(group) > 1]
    for group in look_alikes(hashes, on_progress):
        if len({digests[image] for image in group.tolist()}) > 1:
            groups.append((group, False))
    return tuple(_copies(dataset, hashes, group, is_exact=is_exact) for group, is_exact in groups)


def _copies(dataset: Dataset, hashes: np.ndarray, group: np.ndarray, *, is_exact: bool) -> Copies:
    images = group.tolist()
    splits = [[dataset.records[image].split == split for split in get_args(Split)] for image in images]
    return Copies(
        images=tuple(images),
        is_exact=is_exact,
        leak=nearest_unlike(hashes, group, np.array(splits, dtype=np.int8)),
        contradiction=nearest_unlike(hashes, group, dataset.known_labels(images)),
    )


def _num_images(groups: Iterable[Copies]) -> int:
    """Returns how many images are in at least one of the groups."""
    return len({image for group in groups for image in group.images})


def _shared_patients(dataset: Dataset) -> tuple[str, ...]:
    splits: dict[str, set[str]] = {}
    for record in dataset.records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    return tuple(sorted(patient for patient, seen in splits.items() if len(seen) > 1))
