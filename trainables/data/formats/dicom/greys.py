"""The grey of every stored value: modality, values of interest, inversion (PS3.3 C.11.1, C.11.2).

The curve is computed once per level and then looked up, which is faster than once per pixel.
"""

from __future__ import annotations

import numpy as np

from trainables.data.formats.dicom.header import Header, LookupTable
from trainables.data.formats.dicom.pixels import StoredPixels
from trainables.data.formats.greys import BLANK

MAX_EXPONENT = 500.0


def grey_of(pixels: StoredPixels, header: Header) -> tuple[np.ndarray, str, list[str]]:
    """Returns the image uint8 [H, W], how its greys were chosen, and warnings.

    1. The modality lookup table is applied, else slope and intercept.
    2. The first VOI lookup table is applied, else the first usable window. Without both, 8-bit values stay as
       stored, and others are scaled from the smallest to the largest value. Padding does not count.
    3. MONOCHROME1 images are inverted. Padding becomes black.
    """
    stored = pixels.values()
    is_padding = np.zeros(pixels.num_levels, dtype=bool)
    if header.padding is not None:
        is_padding = (header.padding[0] <= stored) & (stored <= header.padding[1])
    seen = np.bincount(pixels.levels.ravel(), minlength=pixels.num_levels) > 0
    seen &= ~is_padding
    warnings: list[str] = []
    values = _modality(stored, header)
    if header.voi_lut is not None:
        fractions, choice = _looked_up(values, header.voi_lut) / header.voi_lut.maximum, "VOI LUT"
    elif (window := usable_window(header)) is not None:
        centre, width = window
        function = header.window_function
        if function not in _WINDOWS:
            warnings.append(f"its window function {function} is unknown; LINEAR was used")
            function = "LINEAR"
        fractions = _WINDOWS[function](values, centre, width)
        choice = f"window {centre:g}/{width:g} ({function})"
    else:
        if header.windows:
            warnings.append("its window is not usable; greys were chosen as without a window")
        fractions, choice = _without_window(values, header, seen)
    fractions = np.clip(fractions, 0, 1)
    if seen.sum() > 1 and np.ptp(fractions[seen]) == 0:
        warnings.append(f"{BLANK} after its {choice}")
    if header.photometric == "MONOCHROME1":
        fractions = 1 - fractions
    greys = np.rint(255 * fractions).astype(np.uint8)
    greys[is_padding] = 0
    return greys[pixels.levels], choice, warnings


def usable_window(header: Header) -> tuple[float, float] | None:
    """Returns the first window (centre, width) that is wide enough to have a slope, or None."""
    narrowest = 1.0 if header.window_function not in ("SIGMOID", "LINEAR_EXACT") else 0.0
    for centre, width in header.windows:
        if centre is not None and width is not None and width > narrowest:
            return centre, width
    return None


def _modality(stored: np.ndarray, header: Header) -> np.ndarray:
    if header.modality_lut is not None:
        return _looked_up(stored, header.modality_lut)
    return stored * header.slope + header.intercept


def _looked_up(values: np.ndarray, table: LookupTable) -> np.ndarray:
    places = np.clip(np.rint(values) - table.first, 0, len(table.entries) - 1)
    return table.entries[places.astype(np.int64)]


def _without_window(values: np.ndarray, header: Header, seen: np.ndarray) -> tuple[np.ndarray, str]:
    is_plain = (header.slope, header.intercept, header.modality_lut) == (1.0, 0.0, None)
    if header.bits_stored == 8 and is_plain and not header.is_signed:
        return values / 255, "8 bits as stored"
    used = values[seen]
    low, high = (used.min(), used.max()) if used.size else (0.0, 0.0)
    if low == high:
        return np.zeros_like(values), "smallest to largest value"
    return (values - low) / (high - low), "smallest to largest value"


def _linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return (values - (centre - 0.5)) / (width - 1) + 0.5  # PS3.3 C.11.2.1.2.1


def _linear_exact(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return (values - centre) / width + 0.5  # PS3.3 C.11.2.1.3.2


def _sigmoid(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    exponents = np.clip(-4 * (values - centre) / width, -MAX_EXPONENT, MAX_EXPONENT)
    return 1 / (1 + np.exp(exponents))  # PS3.3 C.11.2.1.3.1


_WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}
