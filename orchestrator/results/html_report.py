"""The leaderboard as one HTML file: no script, nothing fetched, every interval drawn beside its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from orchestrator.results.arms import Estimate
from orchestrator.results.leaderboard import CONTROLS, Leaderboard
from orchestrator.results.terminal_report import (
    METRIC_NAMES,
    captions,
    cell,
    cost,
    costs_beside,
    metric_of,
    over_frozen,
    score,
    second_name,
    second_value,
    shown_name,
    system_name,
    trains,
)
from trainables.artifacts import write_atomically

PLOT_WIDTH = 220  # pixels
OPENED_HEADINGS = (
    "#",
    "trial",
    "system",
    "accuracy",
    "AUROC",
    "over frozen",
    "error cut",
    "over itself",
    "over #1",
)
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8883; white-space: nowrap; }
tr.baseline { color: #07a; } tr.control, tr.infeasible { opacity: .65; } tr.first { font-weight: 600; }
svg line { stroke: currentColor; stroke-width: 1.5; } svg circle { fill: currentColor; }
p.shortcut { color: #b50; font-weight: 600; } p.note { opacity: .75; max-width: 60rem; }
"""


def write_html(board: Leaderboard, path: Path) -> None:
    """Writes the page; the folder must exist."""
    write_atomically(path, page(board))


def page(board: Leaderboard) -> str:
    """Returns the whole page."""
    title = escape(f"{board.sweep}: leaderboard")
    sections = [
        section("Chosen on val", val_headings(board), val_rows(board)),
        section("Test, opened once", OPENED_HEADINGS, opened_rows(board)),
        section("Without a score", ("trial", "status", "reason"), absent_rows(board)),
    ]
    notes = "".join(note(text, "shortcut" if text == board.shortcut else "note") for text in captions(board))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n<h1>{title}</h1>\n{"".join(sections)}{notes}</html>\n'


def note(text: str, kind: str) -> str:
    """Returns a paragraph beneath the tables."""
    return f'<p class="{kind}">{escape(text)}</p>\n'


def section(title: str, headings: Iterable[str], rows: Iterable[str]) -> str:
    """Returns a table with its title; nothing if it has no rows."""
    body = "\n".join(rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n{body}\n</table>\n"


def val_headings(board: Leaderboard) -> tuple[str, ...]:
    """Returns the headings of the ranked table."""
    metric = METRIC_NAMES.get(metric_of(board), metric_of(board))
    second = second_name(board)
    costs = [*([] if second is None else [second]), *costs_beside(board)]
    return (
        "#",
        "trial",
        "trains",
        "system",
        metric,
        "95 %",
        "accuracy",
        *("seconds" if name == "s" else name for name in costs),
    )


def val_rows(board: Leaderboard) -> Iterator[str]:
    """Yields every row, the best first, then the controls."""
    shown = [row.objective for row in board.rows] + [c.objective for c in board.controls if c.objective]
    lowest = min((e.value if e.low is None else e.low for e in shown), default=0.0)
    for rank, row in enumerate(board.rows, start=1):
        kind = "baseline" if row.is_baseline else "first" if rank == 1 else ""
        kind = "infeasible" if row.breaches else kind
        cells = [str(rank), shown_name(board, row), trains(row), system_name(row.system), score(row)]
        rest = [cell(row.accuracy), *([second_value(board, row)] if board.also_minimise else [])]
        rest += [cost(row, name) for name in costs_beside(board)]
        yield line(kind, cells, whisker(row.objective, lowest), rest)
    for control in board.controls:
        cells = ["", CONTROLS[control.system], "", "control", cell(control.objective)]
        rest = [cell(control.accuracy), *[""] * (len(costs_beside(board)) + bool(board.also_minimise))]
        yield line("control", cells, whisker(control.objective, lowest), rest)


def opened_rows(board: Leaderboard) -> Iterator[str]:
    """Yields the rows whose test labels were opened."""
    for rank, row in enumerate(board.rows, start=1):
        if row.test_accuracy:
            scores = [cell(row.test_accuracy), cell(row.test_auroc), over_frozen(row), cell(row.error_cut)]
            scores += [cell(row.over_self, sign="+"), cell(row.over_first, sign="+")]
            cells = [str(rank), shown_name(board, row), system_name(row.system), *scores]
            yield line("baseline" if row.is_baseline else "", cells)
    for control in board.controls:
        if control.test_accuracy:
            scores = [cell(control.test_accuracy), cell(control.test_auroc), "", "", "", ""]
            yield line("control", ["", CONTROLS[control.system], "control", *scores])


def absent_rows(board: Leaderboard) -> Iterator[str]:
    """Yields the trials without a score."""
    for absent in board.absent:
        yield line("", [absent.name, absent.status, absent.reason])


def line(kind: str, cells: Iterable[str], drawing: str = "", rest: Iterable[str] = ()) -> str:
    """Returns one row of a table: texts, escaped, around a drawing."""
    before, after = ("".join(f"<td>{escape(text)}</td>" for text in texts) for texts in (cells, rest))
    return f'<tr class="{kind}">{before}{f"<td>{drawing}</td>" if drawing else ""}{after}</tr>'


def whisker(estimate: Estimate | None, lowest: float) -> str:
    """Returns a dot on its interval, drawn from `lowest` to 1."""
    if estimate is None:
        return " "

    def place(value: float) -> str:
        return f"{4 + (PLOT_WIDTH - 8) * (value - lowest) / max(1 - lowest, 1e-9):.1f}"

    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f'<line x1="{place(estimate.low)}" x2="{place(estimate.high)}" y1="8" y2="8"/>'
    dot = f'<circle cx="{place(estimate.value)}" cy="8" r="3.5"/>'
    return f'<svg width="{PLOT_WIDTH}" height="16">{ends}{dot}</svg>'
