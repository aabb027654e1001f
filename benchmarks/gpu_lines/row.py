"""One line of the check while it is measured: figures, bounds, and what could not be done here."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """Where the check runs, and how much of it.

    Args:
        device: the first GPU, or the CPU.
        is_small: shapes that a CPU gets through in seconds.
        is_quick: fewer steps and sizes, for three minutes on a GPU.
    """

    device: torch.device
    is_small: bool = False
    is_quick: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether bounds on speed and GPU memory apply."""
        return self.device.type == "cuda"

    def choose(self, full: Value, *, quick: Value | None = None, small: Value | None = None) -> Value:
        """Returns the value for this extent of the check; one that is not given is the next larger one's."""
        if self.is_small and small is not None:
            return small
        return quick if self.is_quick and quick is not None else full


@dataclass
class Row:
    """What a line has found so far; an error later in the line leaves it as it is."""

    measured: dict[str, Any] = field(default_factory=dict)
    bounds: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def note(self, **values: Any) -> None:
        """Adds figures that have no bound."""
        self.measured |= {name: rounded(value) for name, value in values.items()}

    def require(
        self,
        name: str,
        value: Any,
        *,
        at_most: float = math.inf,
        at_least: float = -math.inf,
        equals: Any = None,
    ) -> None:
        """Adds a figure and its bound; a line with a broken bound fails."""
        ends = {"at_least": at_least, "at_most": at_most, "equals": equals}
        wanted = {end: bound for end, bound in ends.items() if bound not in (None, math.inf, -math.inf)}
        is_met = value == equals if equals is not None else at_least <= value <= at_most
        self.measured[name] = rounded(value)
        self.bounds[name] = {**wanted, "ok": bool(is_met)}

    def skip(self, name: str, reason: str) -> None:
        """Names a part of the line that cannot be measured here."""
        self.skipped[name] = reason


@dataclass(frozen=True)
class Line:
    """A line of the check.

    Args:
        name: of its JSON row.
        shows: what it must show, in words.
        measure: fills the row; an exception fails the line.
        is_quick: whether `--quick` runs it.
    """

    name: str
    shows: str
    measure: Callable[[Settings, Row], None]
    is_quick: bool = True

    def run(self, settings: Settings) -> dict[str, Any]:
        """Measures the line and returns its JSON row, whatever happens."""
        row, error, began = Row(), None, time.perf_counter()
        try:
            self.measure(settings, row)
        except Exception as caught:
            error = f"{type(caught).__name__}: {next(iter(str(caught).splitlines()), '')}"
            traceback.print_exc(file=sys.stderr)
        are_met = all(bound["ok"] for bound in row.bounds.values())
        result: dict[str, Any] = {
            "name": self.name,
            "ok": error is None and are_met,
            "seconds": round(time.perf_counter() - began, 2),
            "bound": self.shows,
            "measured": row.measured,
            "bounds": row.bounds,
        }
        return (
            result | ({"skipped": row.skipped} if row.skipped else {}) | ({"error": error} if error else {})
        )


def rounded(value: Any) -> Any:
    """Returns a value as JSON takes it: floats to four digits, no infinity, tensors and paths as text."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return str(value)
