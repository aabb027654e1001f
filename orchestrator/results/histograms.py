"""Histograms of a quantity by class, as heights of bars for a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_BARS = 32


@dataclass(frozen=True)
class Histogram:
    """The histogram of one class. The classes share the ends of the bars."""

    class_name: str
    bars: tuple[float, ...]  # number of images in each bar, divided by the largest: 0 to 1
    low: float  # left end of the first bar
    high: float  # right end of the last bar
    quantiles: tuple[float, float, float]  # 5 %, median and 95 %


def histograms(values: np.ndarray, members: Mapping[str, Sequence[int]]) -> list[Histogram]:
    """Returns a histogram for each class that has images.

    Args:
        values: the quantity of each image, [N].
        members: the positions of the images of each class.
    """
    low, high = float(values.min()), float(values.max())
    if high == low:
        low, high = low - 0.5, high + 0.5
    parts = {name: values[list(images)] for name, images in members.items() if images}
    counts = {name: np.histogram(part, NUM_BARS, (low, high))[0] for name, part in parts.items()}
    return [
        Histogram(
            class_name=name,
            bars=tuple((counts[name] / counts[name].max()).tolist()),
            low=low,
            high=high,
            quantiles=tuple(np.quantile(part, (0.05, 0.5, 0.95)).tolist()),
        )
        for name, part in parts.items()
    ]
