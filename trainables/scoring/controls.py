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

PRIOR, *SKETCHED, ATTRIBUTES = CONTROLS
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
    """Returns the predictions of the controls on val and test. Controls see no lungs.

    `control_prior` predicts the frequencies of the labels. The other controls are linear probes:
    `control_thumbnail` on 8 × 8 area means, `control_border` on means along the outer 5 % of the image, and
    `control_attributes` on view, sex and age (see `attributes`).
    """
    indices = {split: dataset.indices(split) for split in ("train", "val", "test")}
    targets = {split: dataset.targets(indices[split]) for split in ("train", "val")}
    predictions = _prior(dataset, targets)
    sketches = [(thumbnails(batch), borders(batch)) for batch in _batches(images, len(dataset.records))]
    features = dict(zip(SKETCHED, map(np.concatenate, zip(*sketches, strict=True)), strict=True))
    if (of_records := attributes(dataset)) is not None:
        features[ATTRIBUTES] = of_records
    for name, of_all in features.items():
        train, val = (Examples(of_all[indices[split]], targets[split]) for split in ("train", "val"))
        path = SYSTEMS[dataset.task].fit_path(train, val, dataset.classes, ProbeConfig())
        predictions["val", name] = Scores(image_ids_of(dataset, "val"), path.val_scores)
        of_test = path.scores(of_all[indices["test"]])
        predictions["test", name] = Scores(image_ids_of(dataset, "test"), of_test)
    return predictions


def attributes(dataset: Dataset) -> np.ndarray | None:
    """Returns view, sex and age of each record, float32 [N, M]; None if fewer than two of them vary in train.

    View and sex are one column for each value that train has. Age is centred on its mean in train; an unknown
    age is the mean, with a second column that says so.
    """
    records, train = dataset.records, dataset.indices("train")
    columns: list[np.ndarray] = []
    num_varying = 0
    for values in ([record.view for record in records], [record.sex for record in records]):
        known = sorted({value for i in train if (value := values[i]) is not None})
        columns += [np.array([value == name for value in values], np.float32) for name in known]
        num_varying += len(known) > 1
    ages = np.array([np.nan if record.age is None else record.age for record in records], np.float32)
    known_ages = ages[train][~np.isnan(ages[train])]
    if len(np.unique(known_ages)) > 1:
        num_varying += 1
        columns += [np.nan_to_num(ages - known_ages.mean()), np.isnan(ages).astype(np.float32)]
    return np.stack(columns, axis=1) if num_varying > 1 else None


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
    """Returns frequencies as scores: those of train for val, and those of train and val for test."""
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
