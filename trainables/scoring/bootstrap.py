"""Bootstrap draws of patients: 95 % intervals of metrics and of paired differences between systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import erfc, sqrt
from typing import NamedTuple

import numpy as np

from trainables.scoring.metric_names import interval_keys, metric_key, range_of
from trainables.scoring.metrics import ClassPairs, ratio, weighted_metrics
from trainables.scoring.significance import student_interval

NUM_DRAWS = 1000
ELEMENTS_AT_ONCE = 8_000_000  # of the weights: 32 MB

Draws = Mapping[str, np.ndarray]
"""Metric → [1 + R] values: on all images, then on each bootstrap draw; NaN where undefined."""


class Interval(NamedTuple):
    """A value and its 95 % percentile interval; NaN bounds where under half of the draws are defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Draws patients with replacement, each with all of its images. All systems get the same draws.

    Args:
        classes: int64 [N].
        patients: str [N]; images of one patient are drawn together.
        seed: the same seed and patients give the same draws.
        num_draws: R.
        class_pairs: adds metrics among two classes alone.
    """

    classes: np.ndarray
    patients: np.ndarray
    seed: int = 0
    num_draws: int = NUM_DRAWS
    class_pairs: ClassPairs | None = None

    def metrics(self, scores: np.ndarray, *, with_ece: bool = True) -> dict[str, np.ndarray]:
        """Returns every metric of scores [N, K] on all images and on each draw: [1 + R]."""
        parts = [
            weighted_metrics(scores, self.classes, weights, class_pairs=self.class_pairs, with_ece=with_ece)
            for weights in self.weights
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def intervals(self, scores: np.ndarray) -> dict[str, Interval]:
        """Returns every defined metric of scores [N, K] with its interval."""
        return intervals(self.metrics(scores))

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """Float32 [N, r] blocks, 1 + R columns in all: ones, then how often an image's patient was drawn."""
        return list(self._draw())

    def _draw(self) -> Iterator[np.ndarray]:
        names, patient_of = np.unique(self.patients, return_inverse=True)
        generator = np.random.default_rng(self.seed)
        num_parts = 1 + len(patient_of) * self.num_draws // ELEMENTS_AT_ONCE
        at_once = -(-(1 + self.num_draws) // num_parts)
        for start in range(0, 1 + self.num_draws, at_once):
            num_columns = min(at_once, 1 + self.num_draws - start)
            drawn = generator.integers(len(names), size=(num_columns - (start == 0), len(names)))
            if start == 0:
                drawn = np.concatenate([np.arange(len(names))[None], drawn])  # each patient once
            cells = drawn * num_columns + np.arange(num_columns)[:, None]
            counts = np.bincount(cells.ravel(), minlength=len(names) * num_columns)
            yield counts.reshape(len(names), num_columns).astype(np.float32)[patient_of]


def average(draws: Sequence[Draws]) -> dict[str, np.ndarray]:
    """Returns the mean of every metric over several runs of a system with the same draws of patients."""
    return {name: np.mean([each[name] for each in draws], axis=0) for name in draws[0]}


def paired_draws(of_a: Draws, of_b: Draws) -> dict[str, np.ndarray]:
    """Returns draws of the difference a − b and of the error cut 1 − error_a / error_b.

    The cut of accuracy is `error_cut`; that of an AUROC, e.g. `error_cut_macro_auroc`.
    """
    differences = {name: of_a[name] - of_b[name] for name in of_a if name in of_b}
    for name in list(differences):
        if name == "accuracy" or "auroc" in name:
            key = "error_cut" if name == "accuracy" else f"error_cut_{name}"
            differences[key] = 1 - ratio(1 - of_a[name], 1 - of_b[name])
    return differences


def intervals(draws: Draws) -> dict[str, Interval]:
    """Returns value and 95 % percentile interval of every metric whose value is defined."""
    return {name: _interval(name, values) for name, values in draws.items() if not np.isnan(values[0])}


def _interval(name: str, values: np.ndarray) -> Interval:
    """Returns an interval inside the metric's range that holds the value.

    A calibration error is largest where images repeat, so that every draw may lie above the value: its draws
    are shifted so that their median is the value.
    """
    value, drawn = float(values[0]), _defined(values)
    if 2 * drawn.size < max(values.size - 1, 1):
        return Interval(value, float("nan"), float("nan"))
    if name == "ece":
        drawn = np.clip(drawn - np.median(drawn) + value, *range_of(name))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def p_value(values: np.ndarray) -> float | None:
    """Returns the two-sided p-value of a difference [1 + R] from 0; None where under half of the draws exist.

    Twice the share of draws on the other side of 0, so that p < 0.05 where the 95 % interval excludes 0.
    Where no draw lies there, a normal tail takes its place: R draws cannot show less than 2 / (R + 1).
    """
    drawn = _defined(values)
    if 2 * drawn.size < max(values.size - 1, 1):
        return None
    share = min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    if share > 0:
        return min(1.0, 2 * float(share))
    return min(2 / (drawn.size + 1), erfc(abs(values[0]) / max(float(drawn.std()), 1e-12) / sqrt(2)))


def _defined(values: np.ndarray) -> np.ndarray:
    return values[1:][~np.isnan(values[1:])]


def over_draws(draws: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Returns the mean over draws of every metric that all of them have, with Student's 95 % interval."""
    return {
        name: Interval(*student_interval([draw[name] for draw in draws], range_of(name)))
        for name in draws[0]
        if all(name in draw for draw in draws)
    }


def to_metrics(split: str, system: str, values: Mapping[str, Interval]) -> dict[str, float]:
    """Returns `<split>/<system>/<metric>` and the keys of its interval; an undefined end is absent."""
    flat: dict[str, float] = {}
    for name, interval in values.items():
        key = metric_key(split, system, name)
        flat |= dict(zip((key, *interval_keys(key)), interval, strict=True))
    return {key: value for key, value in flat.items() if not np.isnan(value)}
