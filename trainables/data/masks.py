"""Describes an infection mask in words: the affected part of the lungs, the side and the zone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from trainables.data.formats.decode import decode_grey
from trainables.data.records import ImageRecord
from trainables.errors import DataError

LEAST_SHARE = 0.02
"""Fraction of a lung; a smaller area is an imprecise outline."""
EXTENTS = ((0.1, "a small part"), (0.25, "up to a quarter"), (0.5, "up to a half"), (1.0, "more than half"))
ZONES = ("upper", "middle", "lower")
CLEARLY = 1.5
"""A lung is called worse if its infected fraction is at least this many times that of the other lung."""


def describe_record(record: ImageRecord) -> str | None:
    """Returns a description of a record's masks, or None if a mask is missing or empty."""
    if record.mask_path is None or record.infection_mask_path is None:
        return None
    try:
        lungs, infection = (decode_grey(path) for path in (record.mask_path, record.infection_mask_path))
    except (ValueError, OSError) as error:
        raise DataError(f"masks of {record.image_id}: {error}") from error
    if infection.shape != lungs.shape:
        height, width = lungs.shape
        infection = np.asarray(Image.fromarray(infection).resize((width, height), Image.Resampling.NEAREST))
    return describe_infection(lungs > 127, infection > 127)


def describe_infection(lungs: np.ndarray, infection: np.ndarray) -> str | None:
    """Returns a sentence about the infected part of the lungs, or None without one; masks are bool [H, W].

    The patient faces the viewer: the right lung is on the left of the image.
    """
    infected = lungs & infection
    if not lungs.any() or infected.sum() < LEAST_SHARE * lungs.sum():
        return None
    middle = round(float(np.flatnonzero(lungs.any(axis=0))[[0, -1]].mean()))
    right, left = (
        infected[:, half].sum() / max(lungs[:, half].sum(), 1)
        for half in (slice(None, middle), slice(middle, None))
    )
    share = float(infected.sum() / lungs.sum())
    extent = next(words for limit, words in EXTENTS if share <= limit)
    return (
        f"Opacities in {_side(right, left)}, {_zone(lungs, infected)}, covering {extent} of the lung fields."
    )


def _side(right: float, left: float) -> str:
    if left < LEAST_SHARE:
        return "the right lung"
    if right < LEAST_SHARE:
        return "the left lung"
    if max(right, left) < CLEARLY * min(right, left):
        return "both lungs alike"
    return f"both lungs, worse on the {'right' if right > left else 'left'}"


def _zone(lungs: np.ndarray, infected: np.ndarray) -> str:
    top, bottom = np.flatnonzero(lungs.any(axis=1))[[0, -1]]
    edges = np.linspace(top, bottom + 1, len(ZONES) + 1).round().astype(int)
    shares = [infected[a:b].sum() / infected.sum() for a, b in pairwise(edges)]
    largest = int(np.argmax(shares))
    return f"mostly in the {ZONES[largest]} zones" if shares[largest] > 0.5 else "spread over all zones"
