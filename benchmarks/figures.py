"""Reruns the README's quick figures (under ten minutes), and fails where one leaves its interval.

    python benchmarks/figures.py

A figure of a search space is the value on test images; its interval is the one that the stored result states.
Another processor rounds otherwise and so trains a slightly different adapter: the same result means a value
inside the interval, not the same digits. Figures of sweeps that take hours are listed, and not rerun.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from space import run

RESULTS = Path(__file__).parent / "results"
QUICK = ("demo",)
HOURS = ("xray3_cv", "nih_mini_cv")
MEASURES = ("test_accuracy", "test_auroc", "over_frozen")


class Figure(NamedTuple):
    """A value with the 95 % interval that stands beside it."""

    value: float
    low: float
    high: float


def main() -> int:
    """Prints a line for each figure; returns 1 where one left its interval."""
    failed = False
    for space in QUICK:
        stored, again = figures(newest(space)), figures(run(space, []))
        for name, was in stored.items():
            now = again.get(name)
            holds = now is not None and was.low <= now.value <= was.high
            failed |= not holds
            shown = "absent" if now is None else f"{now.value:.3f}"
            verdict = "" if holds else "  LEFT ITS INTERVAL"
            print(f"{space}: {name}: {was.value:.3f} [{was.low:.3f}, {was.high:.3f}], now {shown}{verdict}")
    for space in HOURS:
        print(
            f"{space}: takes hours; rerun it with: python benchmarks/space.py {space} --set data.root=FOLDER"
        )
    return int(failed)


def newest(space: str) -> dict[str, Any]:
    """Returns the newest stored result of a search space."""
    return json.loads(sorted(RESULTS.glob(f"{space}_*.json"))[-1].read_text())


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Returns the figures on test images that have an interval, by row and measure."""
    board = result["leaderboard"]
    return dict(_of_rows([*board["rows"], *board["controls"]]))


def _of_rows(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    for row in rows:
        for measure in MEASURES:
            estimate = row.get(measure) or {}
            if estimate.get("low") is not None:
                name = " ".join(part for part in (row.get("name"), row["system"], measure) if part)
                yield name, Figure(estimate["value"], estimate["low"], estimate["high"])


if __name__ == "__main__":
    sys.exit(main())
