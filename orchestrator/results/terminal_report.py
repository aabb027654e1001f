"""A board on the terminal: ranks on val, test values, controls, failures, captions."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.results.board import Control, Leaderboard, Row
from orchestrator.results.board_columns import WIDE, Column, opened_columns, shown_name, val_columns
from orchestrator.results.captions import MAX_ROWS, captions
from trainables.scoring.metric_names import title


def render(board: Leaderboard, console: Console) -> None:
    """Prints a board that fits the console, from 80 columns."""
    ranked = list(enumerate(board.rows, start=1))
    best = [(rank, row) for rank, row in ranked if rank <= MAX_ROWS or row.is_baseline]
    console.print(
        table(board, f"{board.sweep}: chosen on val", val_columns(board), best, board.controls, console.width)
    )
    opened = [(rank, row) for rank, row in ranked if row.test_accuracy]
    if opened:
        controls = [control for control in board.controls if control.test_accuracy]
        columns = opened_columns(board)
        console.print(table(board, "test, opened once", columns, opened, controls, console.width))
    for absent in board.absent:
        console.print(
            Text.assemble((f"{absent.status}  ", "red"), absent.name, (f"  {absent.reason}", "dim"))
        )
    for line in captions(board):
        console.print(Text(line, style="yellow" if line == board.shortcut else "dim"))


def table(
    board: Leaderboard,
    name: str,
    columns: Iterable[Column],
    rows: Iterable[tuple[int, Row]],
    controls: Iterable[Control],
    width: int,
) -> Table:
    """Returns the columns that fit a width: rows with their rank, and the controls beneath."""
    drawn = Table(
        title=Text(name, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    drawn.add_column("#", justify="right", no_wrap=True)
    drawn.add_column("trial", overflow="fold", min_width=14)
    shown = [column for column in columns if width >= column.min_width]
    for column in shown:
        drawn.add_column(column.heading, no_wrap=True, justify="right" if column.is_number else "left")
    for rank, row in rows:
        cells = [((width < WIDE and column.short) or column.of_row)(row) for column in shown]
        style = "dim" if row.breaches else "bold" if rank == 1 else "cyan" if row.is_baseline else None
        drawn.add_row(str(rank), shown_name(board, row), *cells, style=style)
    drawn.add_section()
    for control in controls:
        cells = [column.of_control(control) for column in shown]
        drawn.add_row("", title(control.system), *cells, style="dim")
    return drawn
