"""Prints a leaderboard on the terminal: ranks on val, test values, controls, failures, captions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.results.board import Control, FindingTable, Leaderboard, Row
from orchestrator.results.board_columns import (
    WIDE,
    Column,
    finding_cells,
    finding_heading,
    opened_columns,
    shown_name,
    val_columns,
)
from orchestrator.results.captions import MAX_ROWS, captions
from trainables.scoring.metric_names import title

HEADING_WIDTH = 12  # characters of a line in a heading of the table of findings


def render(board: Leaderboard, console: Console) -> None:
    """Prints a leaderboard that fits the width of the console, which is at least 80 characters."""
    console.print(val_table(board, console.width))
    if any(row.is_tested for row in board.rows):
        console.print(opened_table(board, console.width))
    if board.finding_table:
        console.print(finding_table(board.finding_table, console.width))
    for absent in board.absent:
        console.print(
            Text.assemble((f"{absent.status}  ", "red"), absent.name, (f"  {absent.reason}", "dim"))
        )
    for line in captions(board):
        console.print(Text(line, style="yellow" if line == board.shortcut else "dim"))


def val_table(board: Leaderboard, width: int) -> Table:
    """Returns the table of the best rows and all baselines, ranked on val, with the controls at the end."""
    rows = enumerate(board.rows, start=1)
    shown = [(rank, row) for rank, row in rows if rank <= MAX_ROWS or row.is_baseline]
    return _table(
        board,
        f"{board.sweep}: chosen on val{board.of_intervals}",
        val_columns(board),
        shown,
        board.controls,
        width,
    )


def opened_table(board: Leaderboard, width: int) -> Table:
    """Returns the table of the rows with test values, ranked as on val, with the controls at the end."""
    rows = [(rank, row) for rank, row in enumerate(board.rows, start=1) if row.is_tested]
    controls = [control for control in board.controls if control.is_tested]
    return _table(
        board, f"test, opened once{board.of_intervals}", opened_columns(board), rows, controls, width
    )


def finding_table(found: FindingTable, width: int) -> Table:
    """Returns the table of the AUROC of each finding on test, with No Finding at the end."""
    drawn = _empty_table("findings on test: AUROC")
    drawn.add_column("finding", overflow="fold", min_width=11)
    drawn.add_column("images", justify="right", no_wrap=True)
    for column in found.columns:
        heading = textwrap.fill(finding_heading(column), HEADING_WIDTH, break_on_hyphens=False)
        drawn.add_column(heading, no_wrap=width >= WIDE)
    for is_averaged in (True, False):
        for row in found.rows:
            if row.is_averaged == is_averaged:
                images, *aurocs = finding_cells(row)
                shown = [_without_interval(text) if width < WIDE else text for text in aurocs]
                drawn.add_row(row.finding, images, *shown, style=None if is_averaged else "dim")
        drawn.add_section()
    return drawn


def _without_interval(text: str) -> str:
    value, _, rest = text.partition(" [")
    return value + rest.partition("]")[2]


def _empty_table(name: str) -> Table:
    return Table(
        title=Text(name, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _table(
    board: Leaderboard,
    name: str,
    columns: Iterable[Column],
    rows: Iterable[tuple[int, Row]],
    controls: Iterable[Control],
    width: int,
) -> Table:
    drawn = _empty_table(name)
    drawn.add_column("#", justify="right", no_wrap=True)
    drawn.add_column("trial", overflow="fold", min_width=14)

    def fitted(column: Column, text: str) -> str:
        return text.partition(" [")[0] if column.is_short and width < WIDE else text

    shown = [column for column in columns if width >= column.min_width]
    for column in shown:
        drawn.add_column(column.heading, no_wrap=True, justify="right" if column.is_number else "left")
    for rank, row in rows:
        cells = [fitted(column, column.of_row(row)) for column in shown]
        style = "dim" if row.breaches else "bold" if rank == 1 else "cyan" if row.is_baseline else None
        drawn.add_row(str(rank), shown_name(board, row), *cells, style=style)
    drawn.add_section()
    for control in controls:
        cells = [fitted(column, column.of_control(control)) for column in shown]
        drawn.add_row("", title(control.system), *cells, style="dim")
    return drawn
