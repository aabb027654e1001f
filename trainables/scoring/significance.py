"""Student's interval and Holm's correction, in plain Python, so that a leaderboard needs no NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, stdev


def student_interval(
    values: Sequence[float], within: tuple[float, float] = (-inf, inf)
) -> tuple[float, float, float]:
    """Returns the mean of at least two values and the bounds of its 95 % t-interval.

    Args:
        values: values of independent repetitions, such as training seeds.
        within: range of the metric. The interval is cut to this range, because two seeds give a wide one.
    """
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs] # slow to import

    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return mean, max(within[0], mean - half), min(within[1], mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple tests, in the same order (Holm 1979).

    The i-th smallest of m p-values is multiplied by m - i + 1. The correction keeps the order of p-values.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
