"""What a trial has to hold at its end. One that does not is infeasible: on the board, and never the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.search.metric_keys import DEFAULT_FAMILIES, check_measured
from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError
from trainables.scoring.metric_names import COSTS

LIMITS = ("at_most", "at_least")


@dataclass(frozen=True)
class Limit:
    """The values that are allowed, both ends included; None = no end."""

    at_most: float | None = None
    at_least: float | None = None

    def excess(self, value: float) -> float:
        """Returns how far a value is beyond its limit, as a share of the limit; 0 where it holds."""
        for limit, beyond in ((self.at_most, 1), (self.at_least, -1)):
            if limit is not None and beyond * (value - limit) > 0:
                return abs(value - limit) / (abs(limit) or 1.0)
        return 0.0

    def to_dict(self) -> dict[str, float]:
        """Returns the limit as a search-space file writes it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """Reads as `at most 500,000`."""
        return " and ".join(
            f"{name.replace('_', ' ')} {number(value)}" for name, value in self.to_dict().items()
        )


Limits = Mapping[str, Limit]
"""Metric, such as `perf/num_trainable_parameters` → its limit."""


@dataclass(frozen=True)
class Breach:
    """A constraint that does not hold; `value` None: it was not measured, so nothing shows that it holds."""

    metric: str
    limit: Limit
    value: float | None

    def __str__(self) -> str:
        """Reads as `perf/num_trainable_parameters is 1,200,000, not at most 500,000`."""
        value = "was not measured" if self.value is None else f"is {number(self.value)}"
        return f"{self.metric} {value}, not {self.limit}"


def breaches(limits: Limits, values: Mapping[str, float]) -> tuple[Breach, ...]:
    """Returns the constraints that these values break."""
    found = [Breach(key, limit, values.get(key)) for key, limit in limits.items()]
    return tuple(each for each in found if each.value is None or each.limit.excess(each.value) > 0)


def number(value: float) -> str:
    """Returns a number as a reader counts: `1,200,000`, `0.5`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def read_limits(
    entries: dict[str, Any], *, features: Sequence[str], families: Sequence[str] = DEFAULT_FAMILIES
) -> dict[str, Limit]:
    """Returns what the `constraints` of a space say.

    Args:
        entries: metric → limit, as the file writes them.
        features: that its probes are fitted on.
        families: of prompts that it asks.

    Raises:
        ConfigError: a metric that trials do not have at their end, or a limit that nothing can hold.
    """
    return {key: _read_limit(key, entry, features, families) for key, entry in entries.items()}


def _read_limit(key: str, entry: Any, features: Sequence[str], families: Sequence[str]) -> Limit:
    where = f"constraints.{key}"
    check_measured(key, where=where, features=features, families=families, costs=COSTS)
    if not isinstance(entry, dict) or not entry:
        raise ConfigError(f"{where}: write {{at_most: NUMBER}} or {{at_least: NUMBER}}")
    bounds = cast(dict[str, Any], entry)
    for word, value in bounds.items():
        if word not in LIMITS:
            known = did_you_mean(word, LIMITS) or f" (known: {', '.join(LIMITS)})"
            raise ConfigError(f"{where}.{word}: no such key{known}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ConfigError(f"{where}.{word}: {value!r} must be a finite number")
    limit = Limit(**bounds)
    if limit.at_most is not None and limit.at_least is not None and limit.at_most < limit.at_least:
        raise ConfigError(f"{where}: nothing is {limit}; swap them")
    return limit
