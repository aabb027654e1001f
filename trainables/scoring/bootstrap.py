"""Computes 95 % intervals of metrics and of paired differences, by bootstrap draws of patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import erfc, sqrt
from typing import NamedTuple

import numpy as np

from trainables.config import Task
from trainables.scoring.metric_names import error_cut_name, interval_keys, metric_key, range_of
from trainables.scoring.metrics import ClassPairs, ratio
from trainables.scoring.significance import student_interval
from trainables.scoring.tasks import SystemMetrics, task_of

NUM_DRAWS = 1000
ELEMENTS_AT_ONCE = 8_000_000  # weights in one block: 32 MB

Draws = Mapping[str, np.ndarray]
"""Metric → [1 + R] values: the first on all images, then one for each bootstrap draw; NaN if undefined.

Draws of findings are [1 + R, K].
"""


class Interval(NamedTuple):
    """A value and its 95 % percentile interval. The bounds are NaN if under half of the draws are defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Bootstrap draws of patients, with replacement. All systems get the same draws.

    Args:
        targets: classes int64 [N], or labels of findings int8 [N, K] (`Dataset.targets`).
        patients: patient of each image, str [N]. The images of one patient are drawn together.
        seed: the same seed and patients give the same draws.
        num_draws: number R of draws.
        class_pairs: pairs of classes for which metrics on their images alone are added.
    """

    targets: np.ndarray
    patients: np.ndarray
    seed: int = 0
    num_draws: int = NUM_DRAWS
    class_pairs: ClassPairs | None = None

    def metrics(self, scores: np.ndarray, *, with_ece: bool = True) -> dict[str, np.ndarray]:
        """Returns each metric of scores [N, K] on all images and on each draw, [1 + R]."""
        return self.draws(scores, with_ece=with_ece).overall

    def draws(self, scores: np.ndarray, *, with_ece: bool = True) -> SystemMetrics:
        """Returns each metric of scores [N, K], and of each finding, on all images and on each draw."""
        weighted = task_of(self.targets).weighted
        parts = [
            weighted(scores, self.targets, weights, class_pairs=self.class_pairs, with_ece=with_ece)
            for weights in self.weights
        ]
        return SystemMetrics(*(_concatenate(blocks) for blocks in zip(*parts, strict=True)))

    def intervals(self, scores: np.ndarray) -> dict[str, Interval]:
        """Returns each defined metric of scores [N, K] with its interval."""
        return intervals(self.metrics(scores))

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """The image weights, float32 blocks [N, r]: a column of ones, then R columns of patient counts."""
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


def _concatenate(blocks: Sequence[Draws]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def average(draws: Sequence[Draws]) -> dict[str, np.ndarray]:
    """Returns the mean of each metric over several runs of a system with the same draws of patients."""
    return {name: np.mean([each[name] for each in draws], axis=0) for name in draws[0]}


def average_runs(runs: Sequence[SystemMetrics]) -> SystemMetrics:
    """Returns the mean of each metric, and of each finding, over several runs of a system."""
    return SystemMetrics(*(average(draws) for draws in zip(*runs, strict=True)))


def paired_draws(of_a: Draws, of_b: Draws) -> dict[str, np.ndarray]:
    """Returns the draws of the differences a − b and of the error cuts 1 − error_a / error_b."""
    differences = {name: of_a[name] - of_b[name] for name in of_a if name in of_b}
    for name in list(differences):
        if name == "accuracy" or "auroc" in name:
            differences[error_cut_name(name)] = 1 - ratio(1 - of_a[name], 1 - of_b[name])
    return differences


def intervals(draws: Draws) -> dict[str, Interval]:
    """Returns the value and the 95 % percentile interval of each metric whose value is defined."""
    return {name: _interval(name, values) for name, values in draws.items() if not np.isnan(values[0])}


def _interval(name: str, values: np.ndarray) -> Interval:
    """Returns an interval inside the metric's range that contains the value.

    Repeated images increase a calibration error, so all draws may lie above the value. The draws of `ece` are
    therefore shifted until their median equals the value.
    """
    value, drawn = float(values[0]), _defined(values)
    if 2 * drawn.size < max(values.size - 1, 1):
        return Interval(value, float("nan"), float("nan"))
    if name == "ece":
        drawn = np.clip(drawn - np.median(drawn) + value, *range_of(name))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def p_value(values: np.ndarray) -> float | None:
    """Returns the two-sided p-value of a difference [1 + R], or None if under half of the draws are defined.

    p is twice the fraction of draws on the other side of 0, so p < 0.05 if the 95 % interval excludes 0. If
    no draw is on the other side, p comes from a normal tail: R draws cannot show less than 2 / (R + 1).
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


def over_draws(draws: Sequence[Mapping[str, float]], task: Task = "multiclass") -> dict[str, Interval]:
    """Returns the mean and Student's 95 % interval, over draws, of each metric that all draws have."""
    return {
        name: Interval(*student_interval([draw[name] for draw in draws], range_of(name, task)))
        for name in draws[0]
        if all(name in draw for draw in draws)
    }


def to_metrics(split: str, system: str, values: Mapping[str, Interval]) -> dict[str, float]:
    """Returns each value as `<split>/<system>/<metric>`, with its bounds. Undefined bounds are left out."""
    flat: dict[str, float] = {}
    for name, interval in values.items():
        key = metric_key(split, system, name)
        flat |= dict(zip((key, *interval_keys(key)), interval, strict=True))
    return {key: value for key, value in flat.items() if not np.isnan(value)}
