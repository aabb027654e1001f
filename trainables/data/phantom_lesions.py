"""Draws the lesions of a phantom, as densities on the half-size grid (`phantom_image`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.data.phantom_fields import HALF, Field, blob, edge, smooth_noise

Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]

_SIGN = {"right": -1.0, "left": 1.0}
_ZONE_Y = {"upper": -0.32, "mid": -0.02, "lower": 0.26}


@dataclass(frozen=True)
class Lesion:
    """The lesion that a radiologist would report."""

    kind: Literal["none", "ground_glass", "focal", "nodule", "plate", "reticular", "air"]
    side: Side = "right"  # the affected side; ground glass: the worse side; reticular: none
    zone: Zone = "lower"  # of a consolidation or a nodule
    has_consolidation: bool = False
    has_effusion: bool = False


def lesion_density(
    x: Field,
    y: Field,
    right: Field,
    left: Field,
    lesion: Lesion,
    chest_width: float,
    rng: np.random.Generator,
) -> Field:
    """Returns the density that a lesion adds to the lungs; negative for air.

    Args:
        x: positions in the body.
        y: positions in the body.
        right: soft mask of the right lung.
        left: soft mask of the left lung.
        lesion: what to draw.
        chest_width: half the width of the chest.
        rng: where in the lung the lesion lies, and how large it is.
    """
    lung = right if lesion.side == "right" else left
    match lesion.kind:
        case "none":
            return np.zeros_like(x)
        case "ground_glass":
            return (right + left) * _ground_glass(x, y, lesion, chest_width, rng)
        case "focal":
            return lung * _focal(x, y, lesion, rng)
        case "nodule":
            return lung * _nodule(x, y, lesion, rng)
        case "plate":
            return lung * _plate(x, y, rng)
        case "reticular":
            return (right + left) * _reticular(y, rng)
        case "air":
            return lung * _air(x, y, chest_width, rng)


def _ground_glass(x: Field, y: Field, lesion: Lesion, chest_width: float, rng: np.random.Generator) -> Field:
    """Returns mottled patches along both chest walls, in the mid and lower zones."""
    patches = np.zeros_like(x)
    for side, sign in _SIGN.items():
        for _ in range(rng.integers(3, 5) + (side == lesion.side)):
            centre = (sign * chest_width * rng.uniform(0.60, 0.92), rng.uniform(-0.15, 0.42))
            patches += blob(x, y, centre, (rng.uniform(0.08, 0.16), rng.uniform(0.10, 0.18)))
    mottled = 0.6 + 0.5 * smooth_noise(24, HALF, rng)
    return 0.17 * np.clip(patches, 0, 1.2) * mottled


def _focal(x: Field, y: Field, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Returns a dense lobe bounded by a fissure, or fluid in the costophrenic angle, or both."""
    sign, density = _SIGN[lesion.side], np.zeros_like(x)
    if lesion.has_consolidation:
        centre_x, centre_y = sign * rng.uniform(0.28, 0.46), _ZONE_Y[lesion.zone] + rng.uniform(-0.08, 0.08)
        u, v = (x - centre_x) / rng.uniform(0.15, 0.24), (y - centre_y) / rng.uniform(0.13, 0.22)
        fissure = edge(rng.uniform(0.3, 0.8) - v * rng.choice([-1, 1]) - 0.3 * sign * u, 0.15)
        density += 0.22 * edge(1 - u**2 - v**2, 0.7) * fissure
    if lesion.has_effusion:
        meniscus = rng.uniform(0.28, 0.42) - 0.5 * np.clip(sign * x - 0.25, 0, 1)
        density += 0.25 * edge(y - meniscus, 0.12)
    return density


def _nodule(x: Field, y: Field, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Returns a small round density."""
    centre_y = 0.75 * _ZONE_Y[lesion.zone] + rng.uniform(-0.06, 0.06)  # above the diaphragm
    centre = (_SIGN[lesion.side] * rng.uniform(0.34, 0.46), centre_y)  # beside the heart
    radius = rng.uniform(0.045, 0.075)
    return 0.35 * blob(x, y, centre, (radius, radius))


def _plate(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Returns a thin oblique band above the diaphragm: the collapse of a small part of the lung."""
    middle, slope = rng.uniform(0.12, 0.28), rng.uniform(-0.3, 0.3)
    off_band = y - middle - slope * (np.abs(x) - 0.36)
    return 0.28 * np.exp(-((off_band / 0.03) ** 2)) * np.exp(-(((np.abs(x) - 0.36) / 0.2) ** 4))


def _reticular(y: Field, rng: np.random.Generator) -> Field:
    """Returns a net of fine lines in both bases: the ridges of smooth noise."""
    lines = np.clip(1 - np.abs(smooth_noise(26, HALF, rng)) / 0.3, 0, 1)
    return 0.2 * lines * edge(y + 0.05, 0.5)


def _air(x: Field, y: Field, chest_width: float, rng: np.random.Generator) -> Field:
    """Returns air between chest wall and lung, which is darker, and the thin line of the pleura."""
    border = chest_width - rng.uniform(0.12, 0.2) - 0.25 * np.clip(y + 0.1, 0, 1)
    off_border = np.abs(x) - border
    return 0.14 * np.exp(-((off_border / 0.02) ** 2)) - 0.14 * edge(off_border, 0.03)
