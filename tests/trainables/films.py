"""Data sets of images in memory, for the audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.config import Split
from trainables.data.records import NO_FINDING, Dataset, ImageRecord
from trainables.data.survey import Survey, open_survey


def films(
    images: np.ndarray,
    classes: Sequence[str | None],
    splits: Sequence[Split],
    sources: Sequence[str | None] | None = None,
) -> Dataset:
    """One image uint8 [H, W] a patient. A class that is None is withheld."""
    names = tuple(sorted({name for name in classes if name is not None}))
    records = tuple(
        ImageRecord(
            image_id=f"image {i:03}",
            patient_id=f"patient {i:03}",
            split=split,
            labels={} if name is None else {each: int(each == name) for each in names},
            source=sources[i] if sources else None,
        )
        for i, (name, split) in enumerate(zip(classes, splits, strict=True))
    )
    of_id = {record.image_id: image for record, image in zip(records, images, strict=True)}
    return Dataset("toy", names, records, "content", "fingerprint", lambda record: of_id[record.image_id])


def with_findings(dataset: Dataset, labels: Sequence[Sequence[int]], *findings: str) -> Dataset:
    """Returns the images with labels [N, K] of several findings; `NO_FINDING` follows from them."""
    names = (*findings, NO_FINDING)
    stated = [(*of, 0 if 1 in of else -1 if -1 in of else 1) for of in labels]
    records = tuple(
        replace(record, labels=dict(zip(names, of, strict=True)))
        for record, of in zip(dataset.records, stated, strict=True)
    )
    return replace(dataset, classes=names, records=records, task="multilabel")


def survey_of(dataset: Dataset, store: Path) -> Survey:
    return open_survey(dataset, store)


def chests(num_images: int, *, seed: int = 0, size: int = 60) -> np.ndarray:
    """Two dark lungs on a bright body on a dark ground, each image with its own smooth pattern and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = 150.0 * (np.hypot(x, y) < 1.1)
    lungs = 90.0 * ((np.hypot((abs(x) - 0.4) / 0.3, y / 0.6)) < 1)
    coarse = rng.normal(0, 12, (num_images, 10, 10)).repeat(size // 10, axis=1).repeat(size // 10, axis=2)
    noise = rng.normal(0, 4, (num_images, size, size))
    return (40 + body - lungs + coarse + noise).clip(0, 255).astype(np.uint8)
