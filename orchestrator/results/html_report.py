"""The leaderboard as one HTML file, which has no script, loads nothing and draws every interval on val."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from orchestrator.results.arms import Estimate
from orchestrator.results.board import Control, FindingTable, Leaderboard, Row
from orchestrator.results.board_columns import (
    Column,
    finding_cells,
    finding_heading,
    opened_columns,
    shown_name,
    val_columns,
)
from orchestrator.results.captions import captions
from trainables.artifacts import write_atomically
from trainables.scoring.metric_names import title

PLOT_WIDTH = 220  # pixels
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
    """Writes the HTML page to `path`, whose folder must exist."""
    write_atomically(path, page(board))


def page(board: Leaderboard) -> str:
    """Returns the whole HTML page."""
    heading = escape(f"{board.sweep}: leaderboard")
    opened = [(rank, row) for rank, row in enumerate(board.rows, start=1) if row.is_tested]
    judged = [control for control in board.controls if control.is_tested]
    absent = [line("", [each.name, each.status, each.reason]) for each in board.absent]
    sections = [
        section(f"Chosen on val{board.of_intervals}", *val_table(board)),
        section(
            f"Test, opened once{board.of_intervals}", *table(board, opened_columns(board), opened, judged)
        ),
        section("Findings on test: AUROC", *finding_table(board.finding_table)),
        section("Without a score", ("trial", "status", "reason"), absent),
    ]
    notes = "".join(note(text, "shortcut" if text == board.shortcut else "note") for text in captions(board))
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n<h1>{heading}</h1>\n{"".join(sections)}{notes}</html>\n'


def note(text: str, kind: str) -> str:
    """Returns a paragraph for the text below the tables."""
    return f'<p class="{kind}">{escape(text)}</p>\n'


def section(title: str, headings: Iterable[str], rows: Iterable[str]) -> str:
    """Returns a table with its title, or an empty text if the table has no rows."""
    body = "\n".join(rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n{body}\n</table>\n"


def val_table(board: Leaderboard) -> tuple[list[str], list[str]]:
    """Returns the headings and rows of the ranked table, with a drawing of each interval."""
    shown = [row.objective for row in board.rows] + [c.objective for c in board.controls if c.objective]
    lowest = min((e.value if e.low is None else e.low for e in shown), default=0.0)
    ranked = list(enumerate(board.rows, start=1))
    return table(
        board, val_columns(board), ranked, board.controls, lambda each: whisker(each.objective, lowest)
    )


def finding_table(found: FindingTable | None) -> tuple[list[str], list[str]]:
    """Returns the headings and rows of the table of findings, with No Finding at the end."""
    if found is None:
        return [], []
    rows = sorted(found.rows, key=lambda row: not row.is_averaged)
    lines = [line("" if row.is_averaged else "control", [row.finding, *finding_cells(row)]) for row in rows]
    return ["finding", "images", *map(finding_heading, found.columns)], lines


def table(
    board: Leaderboard,
    columns: list[Column],
    rows: list[tuple[int, Row]],
    controls: Iterable[Control],
    draw: Callable[[Row | Control], str] | None = None,
) -> tuple[list[str], list[str]]:
    """Returns the headings and rows of a table. A drawing comes after the second of `columns`."""
    headings = ["#", "trial", *(column.heading for column in columns)]
    if draw:
        headings.insert(4, "95 %")
    lines: list[str] = []
    for rank, row in rows:
        kind = (
            "infeasible" if row.breaches else "baseline" if row.is_baseline else "first" if rank == 1 else ""
        )
        cells = [str(rank), shown_name(board, row), *(column.of_row(row) for column in columns)]
        lines.append(line(kind, cells, draw and draw(row)))
    for control in controls:
        cells = ["", title(control.system), *(column.of_control(control) for column in columns)]
        lines.append(line("control", cells, draw and draw(control)))
    return headings, lines


def line(kind: str, cells: Iterable[str], drawing: str | None = None) -> str:
    """Returns one row of a table: escaped texts, with the drawing after the fourth text."""
    shown = [f"<td>{escape(text)}</td>" for text in cells]
    if drawing is not None:
        shown.insert(4, f"<td>{drawing}</td>")
    return f'<tr class="{kind}">{"".join(shown)}</tr>'


def whisker(estimate: Estimate | None, lowest: float) -> str:
    """Returns an SVG drawing: a dot for the value and a line for its interval, from `lowest` to 1."""
    if estimate is None:
        return " "

    def place(value: float) -> str:
        return f"{4 + (PLOT_WIDTH - 8) * (value - lowest) / max(1 - lowest, 1e-9):.1f}"

    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f'<line x1="{place(estimate.low)}" x2="{place(estimate.high)}" y1="8" y2="8"/>'
    dot = f'<circle cx="{place(estimate.value)}" cy="8" r="3.5"/>'
    return f'<svg width="{PLOT_WIDTH}" height="16">{ends}{dot}</svg>'
