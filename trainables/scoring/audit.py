"""Audits a data set: finds leaks between splits, and computes the scores of controls, which see no lungs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from trainables.config import Split
from trainables.data.records import Dataset
from trainables.scoring.linear_probe import Examples, fit_path
from trainables.scoring.metric_names import CONTROLS
from trainables.scoring.metrics import ClassPairs, pair_name
from trainables.scoring.predictions import Scores, image_ids_of

THUMBNAIL_CELLS = 8
BORDER_FRACTION = 0.05
BORDER_RINGS = 2
BORDER_CELLS = 16  # cells on each of the four sides of a ring
HASH_CELLS = 16
MAX_HAMMING = 24  # of 512 bits: radiographs of two patients differ in 50 or more, re-encoded copies in 23
IMAGES_AT_ONCE = 256


class Images(Protocol):
    """Grey images, by their positions in `dataset.records`, e.g. an `ImageCache`."""

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at these positions, uint8 [B, H, W]."""
        ...


@dataclass(frozen=True)
class AuditReport:
    """The leaks that were found. `to_dict` returns only counts, without ids of images and patients."""

    shared_patients: tuple[str, ...]  # patients in more than one split
    exact_duplicates: tuple[tuple[str, str], ...]  # pairs of image ids with the same pixels
    near_duplicates: tuple[tuple[str, str], ...]  # pairs of image ids with nearly the same perceptual hash
    class_sources: dict[str, dict[str, int]]  # source → class → number of images in train and val

    @property
    def is_clean(self) -> bool:
        """True if no patient and no image is in two splits."""
        return not (self.shared_patients or self.exact_duplicates or self.near_duplicates)

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts, without any id of an image or a patient."""
        return {
            "shared_patients": len(self.shared_patients),
            "exact_duplicates": len(self.exact_duplicates),
            "near_duplicates": len(self.near_duplicates),
            "class_sources": self.class_sources,
        }

    def lines(self) -> list[str]:
        """Returns a sentence for each kind of finding, with its first example."""
        found = [
            f"{len(items)} {noun} across splits" + (f", first {items[0]}" if items else "")
            for noun, items in (
                ("patients", self.shared_patients),
                ("exact duplicates", self.exact_duplicates),
                ("near duplicates", self.near_duplicates),
            )
        ]
        single = [source for source, counts in self.class_sources.items() if len(counts) == 1]
        if len(self.class_sources) > 1 and single:
            found.append(
                f"sources with images of one class only: {', '.join(single)}; a model may learn the source "
                "instead of the class"
            )
        return found


def audit(dataset: Dataset, images: Images) -> AuditReport:
    """Finds patients and images that are in two splits, and counts the images by source and class."""
    digests: list[str] = []
    hashes: list[np.ndarray] = []
    for batch in _batches(images, len(dataset.records)):
        digests += [hashlib.sha256(image.tobytes()).hexdigest() for image in batch]
        hashes.append(perceptual_hash(batch))
    splits = np.array([record.split for record in dataset.records])
    exact = _equal_pairs(digests, splits)
    near = sorted(set(near_pairs(np.concatenate(hashes), splits)) - set(exact))
    return AuditReport(
        shared_patients=_shared_patients(dataset),
        exact_duplicates=_named(dataset, exact),
        near_duplicates=_named(dataset, near),
        class_sources=class_sources(dataset),
    )


def control_scores(dataset: Dataset, images: Images) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions of three controls on val and test. Controls see no lungs.

    `control_prior` predicts the class frequencies. `control_thumbnail` is logistic regression on 8 × 8 area
    means. `control_border` is logistic regression on means along the outer 5 % of the image. The strength is
    chosen, and the classifier refitted, as for the probe.
    """
    indices = {split: dataset.indices(split) for split in ("train", "val", "test")}
    classes = {split: dataset.class_indices(indices[split]) for split in ("train", "val")}
    predictions = _prior(dataset, classes)
    sketches = [(thumbnails(batch), borders(batch)) for batch in _batches(images, len(dataset.records))]
    for name, parts in zip(CONTROLS[1:], zip(*sketches, strict=True), strict=True):
        features = np.concatenate(parts)
        train, val = (Examples(features[indices[split]], classes[split]) for split in ("train", "val"))
        path = fit_path(train, val, class_names=dataset.classes)
        predictions["val", name] = Scores(image_ids_of(dataset, "val"), path.val_scores)
        of_test = path.scores(features[indices["test"]])
        predictions["test", name] = Scores(image_ids_of(dataset, "test"), of_test)
    return predictions


def class_sources(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Returns {source: {class: number of train and val images}}. Empty if the data set names no sources."""
    known = [i for i in dataset.indices("train", "val").tolist() if dataset.records[i].source is not None]
    names = [dataset.classes[k] for k in dataset.class_indices(np.array(known, dtype=np.int64))]
    table: dict[str, Counter[str]] = {}
    for i, name in zip(known, names, strict=True):
        table.setdefault(str(dataset.records[i].source), Counter())[name] += 1
    return {source: dict(sorted(counts.items())) for source, counts in sorted(table.items())}


def same_source_pairs(dataset: Dataset) -> ClassPairs:
    """Returns the pairs of classes that have the same sources.

    The source does not reveal the class within such a pair, so metrics of the pair are reported too. Empty
    if no source is known, or if all classes have the same sources.
    """
    sources = {
        name: {source for source, counts in class_sources(dataset).items() if name in counts}
        for name in dataset.classes
    }
    if all(of_class == sources[dataset.classes[0]] for of_class in sources.values()):
        return {}
    places = dict(zip(dataset.classes, range(len(dataset.classes)), strict=True))
    return {
        pair_name(first, second): (places[first], places[second])
        for first, second in combinations(dataset.classes, 2)
        if sources[first] and sources[first] == sources[second]
    }


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Returns the area means of uint8 images [B, H, W] on an 8 × 8 grid, float32 [B, 64] in [0, 1]."""
    return area_means(images, THUMBNAIL_CELLS, THUMBNAIL_CELLS).reshape(len(images), -1) / 255


def borders(images: np.ndarray) -> np.ndarray:
    """Returns means along the outer 5 % of uint8 images [B, H, W], float32 [B, 128] in [0, 1].

    There are two rings, with 16 means on each side. On xray3, one ring had AUROC .78, two and four .82.
    """
    depth = max(1, round(BORDER_FRACTION * min(images.shape[1:]) / BORDER_RINGS))
    parts: list[np.ndarray] = []
    for ring in range(BORDER_RINGS):
        near = slice(ring * depth, (ring + 1) * depth)
        far = slice(-(ring + 1) * depth, -ring * depth or None)
        parts += [area_means(images[:, strip], 1, BORDER_CELLS) for strip in (near, far)]
        parts += [area_means(images[:, :, strip], BORDER_CELLS, 1) for strip in (near, far)]
    return np.concatenate([part.reshape(len(images), -1) for part in parts], axis=1) / 255


def perceptual_hash(images: np.ndarray) -> np.ndarray:
    """Returns a perceptual hash of 512 bits, uint64 [B, 8]: the signs of steps on a 16 × 16 grid (dHash)."""
    across = np.diff(area_means(images, HASH_CELLS, HASH_CELLS + 1), axis=2) > 0
    down = np.diff(area_means(images, HASH_CELLS + 1, HASH_CELLS), axis=1) > 0
    bits = np.concatenate([across.reshape(len(images), -1), down.reshape(len(images), -1)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint64)


def near_pairs(hashes: np.ndarray, splits: np.ndarray) -> list[tuple[int, int]]:
    """Returns pairs (i, j) of images in two splits whose hashes uint64 [N, 8] differ in at most 24 bits."""
    pairs: list[tuple[int, int]] = []
    for one, other in combinations(np.unique(splits), 2):
        left, right = np.flatnonzero(splits == one), np.flatnonzero(splits == other)
        for rows in np.array_split(left, max(1, len(left) * len(right) // 1_000_000)):
            distance = sum(
                np.bitwise_count(hashes[rows, word][:, None] ^ hashes[right, word][None]).astype(np.int32)
                for word in range(hashes.shape[1])
            )
            near = np.argwhere(np.asarray(distance) <= MAX_HAMMING)
            pairs += [
                (min(i, j), max(i, j)) for i, j in zip(rows[near[:, 0]], right[near[:, 1]], strict=True)
            ]
    return pairs


def area_means(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Returns means of uint8 images [B, H, W] over a grid of equal cells, float32 [B, rows, columns]."""
    down, across = (
        _cell_weights(n, cells) for n, cells in zip(images.shape[1:], (rows, columns), strict=True)
    )
    return down @ images.astype(np.float32) @ across.T


def _cell_weights(size: int, cells: int) -> np.ndarray:
    """Returns the weight of each of `size` pixels in each cell, float32 [cells, size]. Rows sum to 1."""
    edges = np.linspace(0, size, cells + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * cells / size).astype(np.float32)


def _batches(images: Images, total: int) -> Iterator[np.ndarray]:
    for start in range(0, total, IMAGES_AT_ONCE):
        yield images.images(np.arange(start, min(start + IMAGES_AT_ONCE, total)))


def _prior(dataset: Dataset, classes: dict[str, np.ndarray]) -> dict[tuple[Split, str], Scores]:
    """Returns class frequencies as scores: those of train for val, and those of train and val for test."""
    seen = {"val": classes["train"], "test": np.concatenate([classes["train"], classes["val"]])}
    predictions: dict[tuple[Split, str], Scores] = {}
    for split in ("val", "test"):
        image_ids = image_ids_of(dataset, split)
        frequencies = np.bincount(seen[split], minlength=len(dataset.classes)) / len(seen[split])
        predictions[split, CONTROLS[0]] = Scores(image_ids, np.tile(frequencies, (len(image_ids), 1)))
    return predictions


def _shared_patients(dataset: Dataset) -> tuple[str, ...]:
    splits: dict[str, set[str]] = {}
    for record in dataset.records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    return tuple(sorted(patient for patient, seen in splits.items() if len(seen) > 1))


def _equal_pairs(digests: list[str], splits: np.ndarray) -> list[tuple[int, int]]:
    places: dict[str, list[int]] = {}
    for i, digest in enumerate(digests):
        places.setdefault(digest, []).append(i)
    pairs = (pair for group in places.values() for pair in combinations(group, 2))
    return [(i, j) for i, j in pairs if splits[i] != splits[j]]


def _named(dataset: Dataset, pairs: list[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    return tuple((dataset.records[i].image_id, dataset.records[j].image_id) for i, j in pairs)
