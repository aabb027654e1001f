"""The training images as a distribution of embeddings, to say that an image is unlike all of them.

The distance is Mahalanobis's, with the covariance of probabilistic PCA (Tipping and Bishop 1999): the leading
axes have their own variance, and all others share one. No embedding of an image is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FILE = "reference.safetensors"
MAX_AXES = 64
IMAGES_PER_AXIS = 10
"""With fewer images for each axis, an axis could show the embedding of one image."""
QUANTILE = 0.99
"""An image is unlike the training images if it is farther away than this share of the val images."""


@dataclass(frozen=True)
class Reference:
    """A distribution of embeddings: `mean` [D], `axes` [M, D], `variances` [M], `rest` [] of other axes."""

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    rest: float
    threshold: float

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the Mahalanobis distance of embeddings [N, D] from the mean, float64 [N]."""
        centred = embeddings.astype(np.float64) - self.mean
        along = centred @ self.axes.T
        others = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
        return np.sqrt((along**2 / self.variances).sum(1) + others / self.rest)


def fit_reference(train: np.ndarray, val: np.ndarray) -> Reference:
    """Returns the distribution of train [N, D], with the threshold at a quantile of the distances of val."""
    num_images, width = train.shape
    mean = train.mean(0, dtype=np.float64)
    centred = train - mean
    # The smaller of the two Gram matrices has the same leading axes.
    if num_images < width:
        variances, left = np.linalg.eigh(centred @ centred.T / num_images)
        axes = left.T @ centred
        axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)
    else:
        variances, vectors = np.linalg.eigh(centred.T @ centred / num_images)
        axes = vectors.T
    num_axes = max(1, min(MAX_AXES, num_images // IMAGES_PER_AXIS, width - 1))
    leading = slice(-1, -num_axes - 1, -1)
    total = float((centred**2).sum() / num_images)
    rest = max((total - float(variances[leading].sum())) / (width - num_axes), 1e-6 * total / width, 1e-12)
    reference = Reference(mean, axes[leading], np.maximum(variances[leading], rest), rest, np.inf)
    return Reference(
        mean,
        reference.axes,
        reference.variances,
        rest,
        float(np.quantile(reference.distances(val), QUANTILE)),
    )


def write_reference(reference: Reference, folder: Path) -> None:
    """Writes `reference.safetensors`."""
    tensors = {
        "mean": reference.mean.astype(np.float32),
        "axes": np.ascontiguousarray(reference.axes, np.float32),
        "variances": reference.variances.astype(np.float64),
        "rest": np.array(reference.rest),
        "threshold": np.array(reference.threshold),
    }
    save_file(tensors, folder / FILE)


def read_reference(folder: Path) -> Reference | None:
    """Returns the distribution in a model folder, or None if the model has none."""
    if not (folder / FILE).is_file():
        return None
    tensors = load_file(folder / FILE)
    rest, threshold = float(tensors["rest"]), float(tensors["threshold"])
    return Reference(
        tensors["mean"].astype(np.float64),
        tensors["axes"].astype(np.float64),
        tensors["variances"],
        rest,
        threshold,
    )
