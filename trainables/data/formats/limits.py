"""The limits on the shape of an image. They are checked before any pixel is decoded."""

from __future__ import annotations

MAX_PIXELS = 50_000_000
"""Radiographs have up to about 20 million pixels. Pillow's own limit applies too."""
MIN_SIDE = 16
MAX_ASPECT = 8


def check_shape(width: int, height: int) -> None:
    """Raises ValueError if an image is too large, too small or too narrow for a radiograph."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} is too many pixels, the limit is {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{width} × {height} is not a radiograph: "
            f"sides of at least {MIN_SIDE} px and at most {MAX_ASPECT}:1 are expected"
        )
