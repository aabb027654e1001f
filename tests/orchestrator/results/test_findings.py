"""Leaderboards of hand-made sweeps with several findings per image."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.results.board import Difference, FindingColumn, Leaderboard
from orchestrator.results.board_columns import val_columns
from orchestrator.results.html_report import page
from orchestrator.results.leaderboard import leaderboard
from orchestrator.results.terminal_report import render
from orchestrator.storage.events import read_event
from orchestrator.storage.ledger import Entry, SweepState
from trainables.config import TrialConfig, to_flat

OPENED = "2026-11-22T18:40:12+00:00"
FINDINGS = ["Atelectasis", "Effusion", "Hernia"]
Entries = list[tuple[str, dict[str, Any]]]


def sweep_of(entries: Entries) -> SweepState:
    state = SweepState("demo")
    started = {"name": "demo", "task": "multilabel", "findings": FINDINGS}
    for seq, (kind, payload) in enumerate([("sweep_started", started), *entries]):
        state.apply(Entry(seq, OPENED, read_event(kind, payload)))
    return state


def scores(split: str, system: str, auroc: float, ap: float) -> dict[str, float]:
    """Macro averages on a split, with intervals."""
    values = {f"{split}/{system}/macro_auroc": auroc, f"{split}/{system}/macro_ap": ap}
    bounds = {
        f"{key}_{bound}": value + by
        for key, value in values.items()
        for bound, by in (("low", -0.04), ("high", 0.03))
    }
    return values | bounds


def trial(name: str, method: str, **aurocs: float) -> Entries:
    """A finished trial. `aurocs`: system → macro AUROC on val; AP is .3 below."""
    config = to_flat(TrialConfig()) | {"adapt.method": method}
    metrics = {"perf/num_trainable_parameters": 1_000.0}
    for system, auroc in aurocs.items():
        metrics |= scores("val", system, auroc, auroc - 0.3)
    return [
        ("trial_placed", {"trial_key": name, "arm_key": f"arm of {name}", "name": name, "config": config,
                          "attempt": 1, "is_baseline": method == "none"}),
        ("trial_finished", {"trial_key": name, "attempt": 1, "metrics": metrics, "seconds": 3.0,
                            "workdir": "", "results": {}, "stopped_early": False}),
    ]  # fmt: skip


def finding(arm: str | None, system: str, name: str, auroc: float | None, *counts: int) -> dict[str, Any]:
    positive, negative, unknown = counts or (40, 60, 0)
    return {
        "arm": arm and f"arm of {arm}", "system": system, "finding": name, "num_positive": positive,
        "num_negative": negative, "num_unknown": unknown, "auroc": auroc,
        "auroc_low": None if auroc is None else auroc - 0.05,
        "auroc_high": None if auroc is None else auroc + 0.05,
        "average_precision": None,
    }  # fmt: skip


SYSTEMS = [("lora", "probe_joint"), ("frozen", "probe_joint"), ("lora", "zero_shot_pair"),
           ("frozen", "probe_pooled"), (None, "control_thumbnail"), (None, "control_prior")]  # fmt: skip


def opened(zero_shot: float = 0.7, *unknown: int) -> Entries:
    pair = {"arm_a": "arm of lora", "system_a": "probe_joint", "arm_b": "arm of frozen",
            "system_b": "probe_joint", "low": 0.01, "high": 0.09, "p": 0.01}  # fmt: skip
    rows = [
        row
        for place, (arm, system) in enumerate(SYSTEMS)
        for row in (
            finding(arm, system, "Atelectasis", zero_shot if "zero" in system else 0.8 - place / 100),
            finding(arm, system, "Effusion", 0.75, 30, 50, *(unknown or (20,))),
            finding(arm, system, "Hernia", None, 0, 100, 0),
            finding(arm, system, "No Finding", 0.66, 35, 65, 0),
        )
    ]
    return [
        ("test_opened", {"trial_keys": ["frozen", "lora"], "reason": "end of sweep"}),
        ("evaluated", {
            "arms": {
                "frozen": scores("test", "probe_joint", 0.72, 0.3),
                "lora": scores("test", "probe_joint", 0.77, 0.4) | scores("test", "zero_shot_pair", 0.6, 0.2),
            },
            "paired": [
                pair | {"metric": "macro_auroc", "difference": 0.05},
                pair | {"metric": "accuracy", "difference": 0.9},
                pair | {"metric": "error_cut_macro_auroc", "difference": 0.18},
            ],
            "controls": scores("test", "control_thumbnail", 0.65, 0.15),
            "reference": {"arm": "arm of frozen", "system": "probe_joint"},
            "findings": rows,
        }),
    ]  # fmt: skip


TRIALS = [
    *trial("frozen", "none", probe_joint=0.7, probe_pooled=0.69, control_thumbnail=0.6),
    *trial("lora", "lora", probe_joint=0.78, zero_shot_pair=0.62),
]


def shown(board: Leaderboard, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    render(board, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_macro_auroc_is_the_metric_of_every_comparison():
    board = leaderboard(sweep_of([*TRIALS, *opened()]))
    first = board.rows[0]
    assert board.task == "multilabel"
    assert (first.name, first.system, first.accuracy, first.test_accuracy) == (
        "lora",
        "probe_joint",
        None,
        None,
    )
    assert first.over_frozen == Difference(0.05, 0.01, 0.09, p=0.01)
    assert first.error_cut == Difference(0.18, 0.01, 0.09, p=0.01)
    assert first.average_precision is not None
    assert first.average_precision.value == pytest.approx(0.48)
    assert first.test_average_precision is not None
    assert first.test_average_precision.value == 0.4
    assert [row.is_reference for row in board.rows] == [False, True, False, False]


@pytest.mark.parametrize("entries", [TRIALS, [*TRIALS, *opened()]])
def test_a_board_of_findings_shows_auroc_and_ap_but_no_accuracy(entries: Entries):
    board = leaderboard(sweep_of(entries))
    for text in (shown(board), page(board)):
        assert "AP" in text
        assert "accuracy" not in text.lower()
        assert "confusion" not in text.lower()
        assert "macro AUROC over 3 findings (No Finding is not among them)" in " ".join(text.split())


def test_the_captions_name_the_metric_of_the_differences():
    text = " ".join(shown(leaderboard(sweep_of([*TRIALS, *opened()]))).split())
    assert "Over frozen: macro AUROC minus that of the strongest frozen probe" in text


def test_the_table_of_findings_shows_the_systems_that_matter_most():
    board = leaderboard(sweep_of([*TRIALS, *opened()]))
    table = board.finding_table
    assert table is not None
    assert table.columns == (
        FindingColumn("arm of lora", "probe_joint", 1), FindingColumn("arm of frozen", "probe_joint", 2),
        FindingColumn("arm of lora", "zero_shot_pair", 4), FindingColumn(None, "control_thumbnail", None),
    )  # fmt: skip
    assert [(row.finding, row.is_averaged) for row in table.rows] == [
        ("Atelectasis", True), ("Effusion", True), ("Hernia", True), ("No Finding", False),
    ]  # fmt: skip
    for text in (shown(board), page(board)):
        for words in (
            "#1 probe",
            "zero-shot",
            ".800 [.75 .85]",
            ".790 [.74 .84]",
            "30 / 80 +20 ?",
            "0 / 100",
        ):
            assert words in text, words
    (line,) = [line for line in shown(board).splitlines() if line.startswith(" Hernia")]
    assert line.split() == ["Hernia", "0", "/", "100", "–", "–", "–", "–"]


def test_a_table_of_findings_fits_on_a_narrow_terminal_without_intervals():
    text = shown(leaderboard(sweep_of([*TRIALS, *opened(0.3)])), width=80)
    assert max(map(len, text.splitlines())) <= 80
    table = text[text.index("findings on test") : text.index("Ranked by")]
    assert ".300 polarity?" in " ".join(table.split())
    assert "[" not in table


@pytest.mark.parametrize(("auroc", "is_marked"), [(0.30, True), (0.45, False)])
def test_prompts_far_below_chance_are_marked_at_their_finding(auroc: float, is_marked: bool):
    board = leaderboard(sweep_of([*TRIALS, *opened(auroc)]))
    table = board.finding_table
    assert table is not None
    assert table.rows[0].is_reversed == (False, False, is_marked, False)
    for text in (shown(board), page(board)):
        assert ("polarity?" in text) == is_marked


def test_unknown_labels_are_explained_only_if_there_are_any():
    for unknown, is_told in ((20, True), (0, False)):
        board = leaderboard(sweep_of([*TRIALS, *opened(0.7, unknown)]))
        assert ("whose label is unknown" in shown(board)) == is_told


def test_controls_of_other_data_do_not_replace_those_of_the_first():
    entries = [*TRIALS, *opened()]
    kind, evaluated = entries[-1]
    shuffled = [row | {"auroc": 0.5} for row in evaluated["findings"] if row["arm"] is None]
    entries[-1] = kind, evaluated | {"findings": [*evaluated["findings"], *shuffled]}
    tables = [leaderboard(sweep_of(each)).finding_table for each in ([*TRIALS, *opened()], entries)]
    assert tables[0] is not None
    assert tables[0] == tables[1]


def test_before_the_test_is_opened_there_is_no_table_of_findings():
    board = leaderboard(sweep_of(TRIALS))
    assert board.finding_table is None
    assert "findings.csv" in shown(board)
    assert "findings on test" not in shown(board)


def test_a_sweep_of_an_earlier_version_is_one_of_classes():
    state = SweepState("old")
    state.apply(Entry(0, OPENED, read_event("sweep_started", {"name": "old"})))
    board = leaderboard(state)
    assert (board.task, board.findings, board.finding_table) == ("multiclass", (), None)


def test_json_has_the_table_of_findings():
    values = json.loads(leaderboard(sweep_of([*TRIALS, *opened()])).to_json())
    assert values["task"] == "multilabel"
    assert values["rows"][0]["average_precision"]["value"] == pytest.approx(0.48)
    effusion = values["finding_table"]["rows"][1]
    assert (effusion["finding"], effusion["num_unknown"]) == ("Effusion", 20)
    assert effusion["aurocs"][0]["value"] == 0.75


def test_a_control_near_the_probe_is_a_shortcut_to_findings():
    near = [*trial("frozen", "none", probe_joint=0.7, control_thumbnail=0.69)]
    shortcut = leaderboard(sweep_of(near)).shortcut
    assert shortcut is not None
    assert "scores 0.690 macro_auroc on val" in shortcut
    assert "Findings can be predicted without seeing lungs" in shortcut


def test_average_precision_as_the_objective_is_one_column():
    state = sweep_of([*TRIALS, *opened()])
    state.started = replace(state.started, objective="val/probe_joint/macro_ap")
    board = leaderboard(state)
    assert [column.heading for column in val_columns(board)].count("mean AP") == 1
    assert board.rows[0].objective.value == pytest.approx(0.48)
    assert board.rows[0].over_frozen == Difference(0.05, 0.01, 0.09, p=0.01)  # of macro AUROC in any case
