"""Finds images that look like negatives: dark where the other images of their class are bright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

INVERTED_BELOW = -0.1
"""An image is suspected if its correlation with the median of its class is below this (16 × 16 cells).

Measured: no image of xray3 (1,116), of nih_mini with one finding (1,000) or of the training split of
PneumoniaMNIST (4,708) is suspected; the lowest correlation is -.05. Of their negatives, 99 % are found. One
negative among five images is found in 98 % of draws, and so are 45 negatives among 100 images. The
brightness of border and centre alone is a worse sign: it is reversed in 17 % of the real images of xray3.
Of the images of nih_mini with several findings (604), two are suspected, and both are negatives.
"""
ALIKE_FROM = 0.3
"""A class is judged only if the median correlation of its images is at least this. Films have about .8."""


@dataclass(frozen=True)
class Inversions:
    """Images and classes that look like negatives."""

    images: tuple[int, ...]
    """Positions of images that look like negatives of their class."""
    classes: tuple[tuple[str, str], ...]
    """Pairs of classes whose median images look like negatives of each other."""


def find_inversions(cells: np.ndarray, classes: Sequence[str | None]) -> Inversions:
    """Returns the images that are dark where the median image of their class is bright, and the reverse.

    Args:
        cells: area means of each image, [N, 16, 16] or another grid.
        classes: the class of each image; None = unknown, not judged.
    """
    values, names = cells.reshape(len(cells), -1), np.array([name or "" for name in classes])
    medians: dict[str, np.ndarray] = {}
    images: list[int] = []
    for name in sorted(set(names.tolist()) - {""}):
        members = np.flatnonzero(names == name)
        medians[name] = np.median(values[members], axis=0)
        likeness = _correlations(values[members], medians[name])
        if np.median(likeness) >= ALIKE_FROM:
            images += members[likeness < INVERTED_BELOW].tolist()
    reversed_pairs = (
        (one, other)
        for one, other in combinations(medians, 2)
        if _correlations(medians[one][None], medians[other])[0] < INVERTED_BELOW
    )
    return Inversions(tuple(sorted(images)), tuple(reversed_pairs))


def _correlations(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns the correlation of each row of [N, C] with `reference` [C]; 0 for a row without contrast."""
    deviations, of_reference = values - values.mean(axis=1, keepdims=True), reference - reference.mean()
    norms = np.linalg.norm(deviations, axis=1) * np.linalg.norm(of_reference)
    return np.divide(deviations @ of_reference, norms, out=np.zeros(len(values)), where=norms > 0)
