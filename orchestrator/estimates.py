"""Values with 95 % intervals: over patients as a trial measured them, over training seeds by Student's t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


def estimate(metrics: Mapping[str, float], key: str) -> Estimate | None:
    """Returns a metric with its `_low` and `_high` twins, over patients; None if it is absent."""
    if key not in metrics:
        return None
    return Estimate(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean with its 95 % t-interval; one value has none."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean)
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs] # only where it is used

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)
