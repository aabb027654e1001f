"""Draws the picture of the README, `docs/board.svg`, from the stored result of the demo: `make picture`."""

from __future__ import annotations

import io
import json
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from orchestrator.results.leaderboard import Leaderboard
from orchestrator.results.terminal_report import opened_table

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = "demo_2-core-x86_64_*.json"
PICTURE = REPOSITORY / "docs" / "board.svg"
COLUMNS = 100
WHITE, INK, GREY = (255, 255, 255), (36, 41, 47), (110, 119, 129)
RED, GREEN, YELLOW = (207, 34, 46), (17, 99, 41), (154, 103, 0)
BLUE, MAGENTA, CYAN = (9, 105, 218), (130, 80, 223), (27, 124, 131)
THEME = TerminalTheme(WHITE, INK, [INK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, GREY])
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {terminal_width} {terminal_height}">
<style>
text {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
white-space: pre; }}
{styles}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<defs>{lines}</defs>
{backgrounds}
{matrix}
</svg>
"""
"""Rich's own template asks for a font over the network and draws the frame of a window."""


def draw(result: Path) -> str:
    """Returns the table of the test images, as the terminal shows it, as SVG."""
    stored = json.loads(result.read_text())["leaderboard"]
    board = TypeAdapter(Leaderboard).validate_python(stored)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(opened_table(board, COLUMNS))
    return console.export_svg(theme=THEME, code_format=SVG, unique_id="board")


def newest_result() -> Path:
    """Returns the newest stored result of the demo."""
    return sorted((REPOSITORY / "benchmarks" / "results").glob(RESULT))[-1]


if __name__ == "__main__":
    PICTURE.write_text(draw(newest_result()))
    print(f"{PICTURE}: from {newest_result().name}")
