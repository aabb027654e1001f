"""The fields of which a phantom is made: soft edges, blobs and noise on a grid of pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZE = 128
HALF = SIZE // 2
Field = np.ndarray  # float32 [H, W]


def edge(distance: Field, width: float) -> Field:
    """Returns 0 outside and 1 inside, with a ramp of `width` around distance 0."""
    return np.clip(distance / width + 0.5, 0, 1)


def blob(x: Field, y: Field, centre: tuple[float, float], radius: tuple[float, float]) -> Field:
    """Returns a Gaussian bump of height 1."""
    return np.exp(-(((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2))


def smooth_noise(cells: int, size: int, rng: np.random.Generator) -> Field:
    """Returns smooth noise: standard normal values on a coarse grid, enlarged."""
    return _resized(rng.standard_normal((cells, cells), dtype=np.float32), size, Image.Resampling.BICUBIC)


def enlarge(field: Field) -> Field:
    """Returns a field of half size at full size."""
    return _resized(field, SIZE, Image.Resampling.BILINEAR)


def _resized(field: Field, size: int, resampling: Image.Resampling) -> Field:
    return np.asarray(Image.fromarray(field).resize((size, size), resampling))
