"""Constraints of a sweep. Trials that violate a constraint are on the leaderboard, but never selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import model_validator

from trainables.config import Config


class Limit(Config):
    """The allowed range of a metric. Both bounds are included; None = no bound."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_an_end(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given:
            raise ValueError("write {at_most: NUMBER} or {at_least: NUMBER}")
        return given  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _allows_a_value(self) -> Self:
        if self.at_most is not None and self.at_least is not None and self.at_most < self.at_least:
            raise ValueError(f"no value can be {self}; swap the two numbers")
        return self

    def excess(self, value: float) -> float:
        """Returns how far a value is outside the range, as a fraction of the bound; 0 = inside the range."""
        for limit, beyond in ((self.at_most, 1), (self.at_least, -1)):
            if limit is not None and beyond * (value - limit) > 0:
                return abs(value - limit) / (abs(limit) or 1.0)
        return 0.0

    def to_dict(self) -> dict[str, float]:
        """Returns the limit in the form of a search-space file."""
        return self.model_dump(exclude_none=True)

    def __str__(self) -> str:
        """Returns text such as `at most 500,000`."""
        return " and ".join(
            f"{name.replace('_', ' ')} {number(value)}" for name, value in self.to_dict().items()
        )


Limits = Mapping[str, Limit]
"""Limits by metric, such as `perf/num_trainable_parameters`."""


@dataclass(frozen=True)
class Breach:
    """A violated constraint. `value` is None if the metric was not measured."""

    metric: str
    limit: Limit
    value: float | None

    def __str__(self) -> str:
        """Returns text such as `perf/num_trainable_parameters is 1,200,000, but must be at most 500,000`."""
        value = "was not measured" if self.value is None else f"is {number(self.value)}"
        return f"{self.metric} {value}, but must be {self.limit}"


def breaches(limits: Limits, values: Mapping[str, float]) -> tuple[Breach, ...]:
    """Returns the violated constraints. A metric without a value counts as a violation."""
    found = [Breach(key, limit, values.get(key)) for key, limit in limits.items()]
    return tuple(each for each in found if each.value is None or each.limit.excess(each.value) > 0)


def number(value: float) -> str:
    """Returns text such as `1,200,000` or `0.5`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
