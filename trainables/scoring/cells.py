"""Computes area means of images over a grid of cells."""

from __future__ import annotations

import numpy as np


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
