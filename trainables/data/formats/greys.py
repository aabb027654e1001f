"""Turns deep, coloured, transparent and turned pixels into 8-bit grey. Pure numpy."""

from __future__ import annotations

import numpy as np

CLIPPED_FRACTION = 0.005
"""Fraction of the pixels that are clipped at each end of the window for images deeper than 8 bits.

A lead marker or a dead pixel covers a smaller fraction. Without clipping, four pixels turned a film black.
"""
WINDOW = f"percentiles {100 * CLIPPED_FRACTION:g} to {100 * (1 - CLIPPED_FRACTION):g}"
BLANK = "every pixel is equal"
"""The warning of an image that shows nothing."""
_LUMA = (299, 587, 114)  # ITU-R BT.601, in thousandths


def windowed(values: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """Returns deep greys as uint8 [H, W], scaled between the percentiles of the visible pixels.

    If almost all pixels are equal, the greys are scaled between the smallest and the largest value.

    Args:
        values: integers or floats [H, W].
        visible: bool [H, W], or None if every pixel is visible.

    Raises:
        ValueError: a value is infinite or missing.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("contains infinite or missing values")
    counted = values if visible is None else values[visible]
    if counted.size == 0:
        return np.zeros(values.shape, dtype=np.uint8)
    if values.dtype == np.uint16:
        return _by_level(values, counted)
    low, high = np.quantile(counted, [CLIPPED_FRACTION, 1 - CLIPPED_FRACTION])
    if low == high:
        low, high = counted.min(), counted.max()
    return _scaled(values, float(low), float(high))


def _by_level(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Scales 16-bit greys as `windowed` does, by a table of the 65,536 levels: several times faster."""
    reached = np.cumsum(np.bincount(counted.ravel(), minlength=2**16))
    clipped = CLIPPED_FRACTION * counted.size
    low, high = np.searchsorted(reached, [clipped, counted.size - clipped])
    if low == high:
        low, high = counted.min(), counted.max()
    return _scaled(np.arange(2**16), float(low), float(high))[values]


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    fractions = (values.astype(np.float64) - low) / (high - low)
    return np.rint(255 * np.clip(fractions, 0, 1)).astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Returns the greys uint16 [H, W] of 16-bit colours uint16 [H, W, 3]. Equal channels stay as they are."""
    weighted = rgb.astype(np.uint32) @ np.array(_LUMA, dtype=np.uint32)
    return ((weighted + 500) // 1000).astype(np.uint16)


def on_white(grey: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Returns greys uint8 [H, W] as seen on white paper; `opacity` is in [0, 1]."""
    return np.rint(grey * opacity + 255 * (1 - opacity)).astype(np.uint8)


def upright(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    """Returns pixels [H, W] turned and mirrored by an orientation tag (EXIF 2.3, tag 274: 1 to 8)."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    return np.ascontiguousarray(pixels)
