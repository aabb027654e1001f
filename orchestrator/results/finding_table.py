"""The table of findings below a leaderboard: the AUROC of each finding on test, by a few systems."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.results.arms import Estimate
from orchestrator.results.board import FindingColumn, FindingRow, FindingTable, Row
from trainables.scoring.metric_names import ZERO_SHOT

CONTROL = "control_thumbnail"
REVERSED, CHANCE = 0.4, 0.5
"""An AUROC below `REVERSED`, with its interval below `CHANCE`, says that the prompts are reversed."""

Scores = Mapping[tuple[str | None, str], Mapping[str, Mapping[str, Any]]]
"""(arm, system) → finding → a row of `Evaluated.findings`. The arm of a control is None."""


def finding_table(
    rows: Sequence[Row], scores: Sequence[Mapping[str, Any]], averaged: Collection[str]
) -> FindingTable | None:
    """Returns the table of findings, or None if no finding was scored on test.

    Args:
        rows: the rows of the leaderboard, ranked.
        scores: `Evaluated.findings`.
        averaged: the findings that macro averages cover.
    """
    by_system: dict[tuple[str | None, str], dict[str, Mapping[str, Any]]] = {}
    for score in scores:
        of_system = by_system.setdefault((score["arm"], score["system"]), {})
        of_system.setdefault(score["finding"], score)  # controls of other data come later and do not count
    columns = tuple(_columns(rows, by_system))
    if not columns:
        return None
    of_columns = [by_system[column.arm_key, column.system] for column in columns]
    names = dict.fromkeys(name for of_column in of_columns for name in of_column)
    return FindingTable(columns, tuple(_row(name, columns, of_columns, averaged) for name in names))


def is_reversed(auroc: Estimate | None) -> bool:
    """Returns whether an AUROC of prompts is so low that the prompts are probably reversed."""
    if auroc is None or auroc.value >= REVERSED:
        return False
    return auroc.high is None or auroc.high < CHANCE


def _columns(rows: Sequence[Row], scores: Scores) -> Iterator[FindingColumn]:
    """Yields the first adapted row, the strongest frozen probe, the first zero-shot row, and a control."""
    ranked = [
        (FindingColumn(row.arm_key, row.system, rank), row)
        for rank, row in enumerate(rows, start=1)
        if (row.arm_key, row.system) in scores and not row.breaches
    ]
    kinds = (
        [column for column, row in ranked if row.method != "none"],
        [column for column, row in ranked if row.is_reference],
        [column for column, row in ranked if row.system in ZERO_SHOT],
    )
    yield from dict.fromkeys(kind[0] for kind in kinds if kind)
    if (None, CONTROL) in scores:
        yield FindingColumn(None, CONTROL, None)


def _row(
    name: str,
    columns: Sequence[FindingColumn],
    of_columns: Sequence[Mapping[str, Mapping[str, Any]]],
    averaged: Collection[str],
) -> FindingRow:
    counts = next(of_column[name] for of_column in of_columns if name in of_column)
    aurocs = tuple(_auroc(of_column.get(name)) for of_column in of_columns)
    return FindingRow(
        finding=name,
        is_averaged=name in averaged,
        num_positive=counts["num_positive"],
        num_negative=counts["num_negative"],
        num_unknown=counts["num_unknown"],
        aurocs=aurocs,
        is_reversed=tuple(
            column.system in ZERO_SHOT and is_reversed(auroc)
            for column, auroc in zip(columns, aurocs, strict=True)
        ),
    )


def _auroc(score: Mapping[str, Any] | None) -> Estimate | None:
    if score is None or score.get("auroc") is None:
        return None
    return Estimate(score["auroc"], score.get("auroc_low"), score.get("auroc_high"))
