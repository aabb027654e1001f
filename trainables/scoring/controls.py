"""Computes the scores of controls: classifiers that see no lungs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from trainables.config import ProbeConfig, Split
from trainables.data.records import Dataset
from trainables.scoring.cells import area_means
from trainables.scoring.linear_probe import Examples
from trainables.scoring.metric_names import CONTROLS
from trainables.scoring.predictions import Scores, image_ids_of
from trainables.scoring.task_systems import SYSTEMS

PRIOR, *SKETCHED = CONTROLS[:3]
THUMBNAIL_CELLS = 8
BORDER_FRACTION = 0.05
BORDER_RINGS = 2
BORDER_CELLS = 16  # cells on each of the four sides of a ring
IMAGES_AT_ONCE = 256


class Images(Protocol):
    """Grey images, by their positions in `dataset.records`, e.g. an `ImageCache`."""

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at these positions, uint8 [B, H, W]."""
        ...


def control_scores(dataset: Dataset, images: Images) -> dict[tuple[Split, str], Scores]:
    """Returns the predictions of three controls on val and test. Controls see no lungs.

    `control_prior` predicts the class frequencies. `control_thumbnail` is logistic regression on 8 × 8 area
    means. `control_border` is logistic regression on means along the outer 5 % of the image. The strength is
    chosen, and the classifier refitted, as for the probe.
    """
    indices = {split: dataset.indices(split) for split in ("train", "val", "test")}
    targets = {split: dataset.targets(indices[split]) for split in ("train", "val")}
    predictions = _prior(dataset, targets)
    sketches = [(thumbnails(batch), borders(batch)) for batch in _batches(images, len(dataset.records))]
    for name, parts in zip(SKETCHED, zip(*sketches, strict=True), strict=True):
        features = np.concatenate(parts)
        train, val = (Examples(features[indices[split]], targets[split]) for split in ("train", "val"))
        path = SYSTEMS[dataset.task].fit_path(train, val, dataset.classes, ProbeConfig())
        predictions["val", name] = Scores(image_ids_of(dataset, "val"), path.val_scores)
        of_test = path.scores(features[indices["test"]])
        predictions["test", name] = Scores(image_ids_of(dataset, "test"), of_test)
    return predictions


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


def _prior(dataset: Dataset, targets: dict[str, np.ndarray]) -> dict[tuple[Split, str], Scores]:
    """Returns class frequencies as scores: those of train for val, and those of train and val for test."""
    seen = {"val": targets["train"], "test": np.concatenate([targets["train"], targets["val"]])}
    predictions: dict[tuple[Split, str], Scores] = {}
    for split in ("val", "test"):
        image_ids = image_ids_of(dataset, split)
        frequencies = SYSTEMS[dataset.task].prior(seen[split], dataset.classes)
        predictions[split, PRIOR] = Scores(image_ids, np.tile(frequencies, (len(image_ids), 1)))
    return predictions


def _batches(images: Images, total: int) -> Iterator[np.ndarray]:
    for start in range(0, total, IMAGES_AT_ONCE):
        yield images.images(np.arange(start, min(start + IMAGES_AT_ONCE, total)))
