"""The README's figures are those of stored results, and a rerun that leaves an interval is noticed."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import figures
import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def shown(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def test_figures_of_the_readme_stand_in_stored_results() -> None:
    results = [figures.figures(figures.newest(space)) for space in (*figures.QUICK, *figures.HOURS)]
    known = {shown(figure.value) for of_space in results for figure in of_space.values()}
    quoted = re.findall(r"(?<![\d.])\.\d{3}", README)
    assert quoted
    assert set(quoted) <= known


def test_a_rerun_that_leaves_an_interval_fails(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    stored = figures.newest("demo")
    monkeypatch.setattr(figures, "run", lambda space, settings: copy.deepcopy(stored))
    assert figures.main() == 0
    worse = copy.deepcopy(stored)
    worse["leaderboard"]["rows"][0]["test_accuracy"]["value"] = 0.1
    monkeypatch.setattr(figures, "run", lambda space, settings: worse)
    assert figures.main() == 1
    assert capsys.readouterr().out.count("LEFT ITS INTERVAL") == 1


def test_a_row_that_is_gone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = copy.deepcopy(figures.newest("demo"))
    del fewer["leaderboard"]["controls"][0]
    monkeypatch.setattr(figures, "run", lambda space, settings: fewer)
    assert figures.main() == 1
