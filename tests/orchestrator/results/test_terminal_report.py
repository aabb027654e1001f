"""Leaderboards of hand-made sweeps: ranking, intervals, reasons, and what fits on a terminal."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.results.arms import best_arm
from orchestrator.results.board import Difference, Leaderboard
from orchestrator.results.board_columns import cell, count, decimals
from orchestrator.results.captions import MAX_ROWS
from orchestrator.results.html_report import page, write_html
from orchestrator.results.leaderboard import leaderboard
from orchestrator.results.terminal_report import render
from orchestrator.storage.events import read_event
from orchestrator.storage.ledger import Entry, SweepState
from trainables.config import TrialConfig, to_flat

OPENED = "2026-11-22T18:40:12+00:00"


def sweep_of(
    *entries: tuple[str, dict[str, Any]], objective: str = "val/probe_joint/macro_auroc", **space: Any
) -> SweepState:
    state = SweepState("demo")
    started = {"name": "demo", "objective": objective, "space": space}
    for seq, (kind, payload) in enumerate([("sweep_started", started), *entries]):
        state.apply(Entry(seq, OPENED, read_event(kind, payload)))
    return state


def with_started(state: SweepState, **fields: Any) -> SweepState:
    """Returns the sweep as if it had been started with these fields."""
    return replace(state, started=replace(state.started, **fields))


def placed(
    name: str, *, arm: str = "", is_baseline: bool = False, **overrides: Any
) -> tuple[str, dict[str, Any]]:
    config = to_flat(TrialConfig()) | {key.replace("__", "."): value for key, value in overrides.items()}
    arm_key = f"arm of {arm or name}"
    shown = arm or name
    return "trial_placed", {
        "trial_key": name, "arm_key": arm_key, "name": shown, "config": config, "attempt": 1,
        "is_baseline": is_baseline,
    }  # fmt: skip


def finished(name: str, *, early: bool = False, **scores: float) -> tuple[str, dict[str, Any]]:
    """`scores`: system → value of macro AUROC on val; accuracy is .1 below."""
    metrics = {"perf/num_trainable_parameters": 123_456.0}
    for system, value in scores.items():
        metrics |= interval(f"val/{system}/macro_auroc", value) | interval(
            f"val/{system}/accuracy", value - 0.1
        )
    return "trial_finished", {
        "trial_key": name, "attempt": 1, "metrics": metrics, "seconds": 12.0, "workdir": "", "results": {},
        "stopped_early": early,
    }  # fmt: skip


def interval(key: str, value: float) -> dict[str, float]:
    return {key: value, f"{key}_low": value - 0.04, f"{key}_high": value + 0.03}


def frozen(**scores: float) -> list[tuple[str, dict[str, Any]]]:
    systems = {"probe_joint": 0.75, "control_prior": 0.5} | scores
    return [placed("frozen", is_baseline=True, adapt__method="none"), finished("frozen", **systems)]


def adapted(name: str = "rank=8", **scores: float) -> list[tuple[str, dict[str, Any]]]:
    return [placed(name), finished(name, **({"probe_joint": 0.84, "zero_shot_unseen": 0.8} | scores))]


def opened() -> list[tuple[str, dict[str, Any]]]:
    pair = {"arm_a": "arm of rank=8", "arm_b": "arm of frozen"}
    pair |= {"system_a": "probe_joint", "system_b": "probe_joint"}
    values = {"low": 0.08, "high": 0.16}
    return [
        ("test_opened", {"trial_keys": ["frozen", "rank=8"], "reason": "end of sweep"}),
        ("evaluated", {
            "arms": {
                "frozen": interval("test/probe_joint/accuracy", 0.7),
                "rank=8": interval("test/probe_joint/accuracy", 0.822)
                | interval("test/probe_joint/macro_auroc", 0.9),
            },
            "pooled": {},
            "paired": [
                pair | values | {"system_b": "probe_pooled", "metric": "accuracy", "difference": 0.2},
                pair | values | {"arm_b": None, "metric": "accuracy", "difference": 0.5},
                pair | values | {"metric": "macro_auroc", "difference": 0.03},
                pair | values | {"metric": "accuracy", "difference": 0.122},
                pair | {"metric": "error_cut", "difference": 0.41, "low": 0.3, "high": 0.5},
            ],
            "controls": interval("test/control_prior/accuracy", 0.33),
            "reference": {"arm": "arm of frozen", "system": "probe_joint"},
            "notes": ["one seed was left out"],
        }),
    ]  # fmt: skip


def text_of(board: Leaderboard, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    render(board, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_systems_of_all_trials_are_ranked_by_the_objectives_metric():
    board = leaderboard(sweep_of(*frozen(), *adapted(probe_pooled=0.86)))
    assert [(row.name, row.system, row.objective.value) for row in board.rows] == [
        ("rank=8", "probe_pooled", 0.86), ("rank=8", "probe_joint", 0.84),
        ("rank=8", "zero_shot_unseen", 0.8), ("frozen", "probe_joint", 0.75),
    ]  # fmt: skip
    assert (board.rows[1].objective.low, board.rows[1].objective.high) == pytest.approx((0.80, 0.87))


def test_another_objective_ranks_by_its_own_metric():
    state = sweep_of(*frozen(), *adapted(), objective="val/probe_joint/accuracy")
    assert [round(row.objective.value, 2) for row in leaderboard(state).rows] == [0.74, 0.7, 0.65]


def test_ties_of_the_best_trial_go_to_the_lower_negative_log_likelihood():
    entries = [*adapted("a"), *adapted("b")]
    for (_, payload), nll in zip([entries[1], entries[3]], (0.5, 0.4), strict=True):
        payload["metrics"]["val/probe_joint/nll"] = nll
    (best,) = best_arm(sweep_of(*entries)) or []
    assert best.name == "b"


def test_a_trial_without_a_score_has_a_reason_and_no_row():
    failed = {"trial_key": "rank=64", "attempt": 1, "cause": "non_finite", "message": "loss is nan at step 3"}
    absent = {"trial_key": "clip", "attempt": 1, "cause": "unavailable", "message": "no weights here"}
    entries = [
        placed("rank=64"),
        ("trial_failed", failed),
        placed("clip"),
        ("trial_failed", absent),
        placed("cut"),
    ]
    board = leaderboard(sweep_of(*frozen(), *entries, ("sweep_finished", {"exit_code": 3, "seconds": 1.0})))
    assert {row.name for row in board.rows} == {"frozen"}
    assert [(each.name, each.status) for each in board.absent] == [
        ("rank=64", "failed"), ("clip", "unavailable"), ("cut", "interrupted"),
    ]  # fmt: skip
    assert "non_finite: loss is nan at step 3" in text_of(board, 100)


def test_the_seeds_of_an_arm_without_weights_are_one_line_with_the_command_and_no_score_cell():
    message = "chexzero: model not on this machine; get it, then run 'models convert'"
    entries = [
        each
        for key in ("a0", "a1", "a2")
        for each in (
            placed(key, arm="CheXzero, LoRA"),
            ("trial_failed", {"trial_key": key, "attempt": 1, "cause": "unavailable", "message": message}),
        )
    ]
    board = leaderboard(sweep_of(*frozen(), *entries, repeat={"seed": [0, 1, 2]}))
    assert [(each.name, each.status) for each in board.absent] == [("CheXzero, LoRA (×3)", "unavailable")]
    assert {row.name for row in board.rows} == {"frozen"}
    for shown in (text_of(board, 200), page(board).replace("&#x27;", "'")):
        (line,) = [line for line in shown.splitlines() if "CheXzero" in line]
        assert "then run 'models convert'" in line
        assert not re.search(r"\.\d{3}", line)
        assert "sweep --resume demo --retry-failed" in " ".join(shown.split())
    (absent,) = json.loads(board.to_json())["absent"]
    assert absent.keys() == {"name", "status", "reason"}


def test_rows_say_how_far_they_are_from_the_one_that_stood_first_on_val():
    first = {"arm": "arm of rank=8", "system": "probe_joint"}
    entries = opened()
    pair = {
        "arm_a": "arm of frozen",
        "system_a": "probe_joint",
        "arm_b": first["arm"],
        "low": -0.2,
        "high": 0.0,
    }
    pair |= {"system_b": first["system"], "metric": "accuracy", "difference": -0.122}
    entries[1][1]["paired"].append(pair)
    entries[1][1]["first"] = first
    board = leaderboard(sweep_of(*frozen(), *adapted(), *entries))
    over = {(row.name, row.system): row.over_first for row in board.rows}
    assert over.pop(("frozen", "probe_joint")) == Difference(-0.122, -0.2, 0.0)
    assert set(over.values()) == {None}
    assert "-.122 [-.20 .00]" in text_of(board, 120)
    assert "-.122 [-.20 .00]" in page(board)


def test_with_several_frozen_encoders_a_row_stands_beside_its_own():
    other = {"adapt__method": "none", "encoder__image_size": 96}
    others = [placed("other", is_baseline=True, **other), finished("other", probe_joint=0.9)]
    entries = opened()
    entries[1][1]["reference"] = {"arm": "arm of other", "system": "probe_joint"}
    board = leaderboard(sweep_of(*frozen(), *others, *adapted(), *entries))
    rows = {(row.name, row.system): row for row in board.rows}
    own = rows["rank=8", "probe_joint"]
    assert (own.over_frozen, own.over_self) == (None, Difference(0.122, 0.08, 0.16))
    assert [key for key, row in rows.items() if row.over_self] == [("rank=8", "probe_joint")]
    assert "over itself" in text_of(board, 160)
    assert "Over itself:" not in text_of(leaderboard(sweep_of(*frozen(), *adapted(), *opened())), 160)


def test_an_encoder_that_has_seen_the_data_in_training_is_noted():
    entries = placed("biomedclip")
    entries[1]["config"] |= {"encoder.name": "biomedclip", "data.dataset": "covid_qu_ex"}
    board = leaderboard(sweep_of(*frozen(), entries))
    (note,) = board.notes
    assert note.startswith("biomedclip on covid_qu_ex: possibly trained on PMC-15M with the same images")
    assert leaderboard(sweep_of(*frozen())).notes == ()


def test_data_without_patient_ids_have_intervals_by_image_on_every_view():
    known = leaderboard(sweep_of(*frozen(), *adapted(), *opened()))
    unknown = leaderboard(with_started(sweep_of(*frozen(), *adapted(), *opened()), by_image=True))
    said = "intervals by image, not by patient: the data set has no patient ids."
    for text in (text_of(unknown, 300), page(unknown)):
        assert text.count(said) == 1
        assert "hosen on val, intervals by image" in text
        assert "est, opened once, intervals by image" in text
    for text in (text_of(known, 300), page(known)):
        assert "bootstrap intervals by patient." in text
        assert "by image" not in text
    assert [json.loads(board.to_json())["by_image"] for board in (known, unknown)] == [False, True]


def test_notes_about_the_data_are_on_every_view():
    notes = ["3 images excluded by bad.txt", "words made from the labels"]
    board = leaderboard(with_started(sweep_of(*frozen()), data_notes=notes))
    for text in (text_of(board, 300), page(board)):
        assert text.count("Data: 3 images excluded by bad.txt; words made from the labels.") == 1
    assert json.loads(board.to_json())["data_notes"] == notes


def test_few_shot_images_are_each_of_another_patient_only_where_patients_are_known():
    state = sweep_of(*frozen(few_shot_4_joint=0.6))
    assert "per class, each of another patient." in text_of(leaderboard(state), 300)
    assert "another patient" not in text_of(leaderboard(with_started(state, by_image=True)), 300)


def test_test_values_stand_only_where_labels_were_opened():
    closed = leaderboard(sweep_of(*frozen(), *adapted()))
    assert all(row.test_accuracy is None for row in closed.rows)
    assert "Test labels: not opened." in text_of(closed, 100)
    board = leaderboard(sweep_of(*frozen(), *adapted(), *opened()))
    by_row = {(row.name, row.system): row for row in board.rows}
    best = by_row["rank=8", "probe_joint"]
    assert best.test_accuracy is not None
    assert best.over_frozen is not None
    assert best.error_cut is not None
    assert (best.test_accuracy.value, best.over_frozen.value, best.error_cut.value) == (0.822, 0.122, 0.41)
    assert by_row["rank=8", "zero_shot_unseen"].test_accuracy is None
    assert by_row["frozen", "probe_joint"].is_reference
    assert by_row["frozen", "probe_joint"].over_frozen is None


def test_seeds_and_folds_of_one_configuration_are_one_row_with_pooled_intervals():
    entries = [
        each
        for seed, score in enumerate((0.8, 0.9))
        for each in (placed(f"t{seed}", arm="clip loss", seed=seed), finished(f"t{seed}", probe_joint=score))
    ]
    pooled = {"arm of clip loss": interval("test/probe_joint/accuracy", 0.81)}
    evaluated = {
        "arms": {"t0": {"test/probe_joint/accuracy": 0.1}},
        "pooled": pooled,
        "paired": [],
        "controls": {},
    }
    (row,) = leaderboard(sweep_of(*entries, ("evaluated", evaluated))).rows
    assert row.name == "clip loss (×2)"
    assert row.trial_keys == ("t0", "t1")
    assert row.objective.value == pytest.approx(0.85)
    assert row.objective.low is None  # an interval over seeds is not one by patient
    assert row.test_accuracy is not None
    assert row.test_accuracy.value == 0.81


@pytest.mark.parametrize(("border", "is_shortcut"), [(0.70, False), (0.82, True), (0.95, True)])
def test_a_control_near_the_best_probe_is_called_a_shortcut(border: float, is_shortcut: bool):
    board = leaderboard(sweep_of(*frozen(control_border=border), *adapted()))
    assert (board.shortcut is not None) == is_shortcut
    assert ("shortcut: the control 'image border'" in text_of(board, 200)) == is_shortcut


def test_a_high_zero_shot_score_does_not_hide_a_shortcut():
    board = leaderboard(sweep_of(*frozen(control_border=0.83), *adapted(zero_shot_unseen=0.99)))
    assert board.shortcut is not None


@pytest.mark.parametrize(("auroc", "is_reversed"), [(0.07, True), (0.45, False)])
def test_prompts_far_below_chance_are_called_reversed(auroc: float, is_reversed: bool):
    text = text_of(leaderboard(sweep_of(*frozen(zero_shot_unseen=auroc), *adapted())), 300)
    said = f"scores {auroc:.3f} macro AUROC on val. Its prompts are probably reversed"
    assert (said in text) == is_reversed


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_leaderboard_fits_its_terminal(width: int):
    long = "rank=16 target_modules=pointwise learning_rate=0.00123"
    state = sweep_of(*frozen(control_border=0.9), *adapted(), *adapted(long), *opened())
    text = text_of(leaderboard(state), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text  # no value is cut
    for value in (
        ".840 [.80 .87]",
        ".822 [.78 .85]",
        "+.122 [.08 .16]",
        "reference",
        "one seed was left out",
    ):
        assert value in text
    assert (".410 [.30 .50]" in text) == (width >= 120)
    assert ("123k" in text) == (width >= 100)


def test_a_trial_that_was_stopped_early_is_marked():
    text = text_of(leaderboard(sweep_of(placed("cut"), finished("cut", early=True, probe_joint=0.8))), 100)
    assert ".800 [.76 .83]†" in text
    assert "† stopped early" in text


def test_every_kind_of_system_has_a_row_under_its_own_name():
    resnet = {"adapt__method": "baseline", "baseline__architecture": "resnet18"}
    state = sweep_of(
        *frozen(zero_shot_template=0.7, few_shot_16_joint=0.74, few_shot_4_joint=0.6),
        placed("ResNet-18", **resnet),
        finished("ResNet-18", baseline=0.83),
        placed("ResNet-18, random", **resnet, baseline__from_scratch=True),
        finished("ResNet-18, random", baseline_from_scratch=0.78),
    )
    board = leaderboard(state)
    assert [row.system for row in board.rows] == [
        "baseline",
        "baseline_from_scratch",
        "probe_joint",
        "few_shot_16_joint",
        "zero_shot_template",
        "few_shot_4_joint",
    ]
    text = text_of(board, 130)
    for words in (
        "from scratch",
        "16-shot joint",
        "zero-shot templates",
        "all of resnet18",
        "t-intervals over draws",
    ):
        assert words in " ".join(text.split()), words


def test_a_long_board_shows_the_best_rows_and_every_baseline():
    entries = [entry for i in range(MAX_ROWS + 5) for entry in adapted(f"trial {i}")]
    text = text_of(leaderboard(sweep_of(*frozen(), *entries)), 100)
    assert "frozen" in text
    assert f"The best {MAX_ROWS} of {2 * (MAX_ROWS + 5) + 1} rows" in text


def test_a_sweep_that_has_only_begun_can_be_shown():
    text = text_of(leaderboard(sweep_of(placed("rank=8"))), 80)
    assert "rank=8" in text


def test_json_holds_what_the_table_shows():
    values = json.loads(leaderboard(sweep_of(*frozen(), *adapted(), *opened())).to_json())
    assert [(row["rank"], row["name"]) for row in values["rows"]][:2] == [(1, "rank=8"), (2, "rank=8")]
    assert values["rows"][0]["over_frozen"] == {
        "value": 0.122, "low": 0.08, "high": 0.16, "num_seeds": None, "p": None,
    }  # fmt: skip
    assert values["test_opened"] == OPENED
    assert [control["system"] for control in values["controls"]] == ["control_prior"]


WEIGHTS = "perf/num_trainable_parameters"


def sized(name: str, score: float, weights: int) -> list[tuple[str, dict[str, Any]]]:
    entries = [placed(name), finished(name, probe_joint=score)]
    entries[1][1]["metrics"][WEIGHTS] = float(weights)
    return entries


def test_infeasible_rows_stand_below_all_others_with_what_they_break():
    limits = {"val/probe_joint/accuracy": {"at_least": 0.5}, WEIGHTS: {"at_most": 500_000}}
    entries = [*frozen(), *sized("large", 0.9, 600_000), *sized("small", 0.8, 400_000)]
    board = leaderboard(sweep_of(*entries, constraints=limits))
    assert [row.name for row in board.rows] == ["small", "frozen", "large"]
    (breach,) = board.rows[2].breaches
    assert (breach.metric, breach.value) == (WEIGHTS, 600_000)
    for text in (text_of(board, 80), page(board)):
        assert "large ✗2" in text
        assert "small ✗" not in text
    assert f"✗2 infeasible, so ranked last and never chosen: {WEIGHTS} is not at most 500,000." in page(board)
    values = json.loads(board.to_json())["rows"][2]["breaches"]
    assert values == [{"metric": WEIGHTS, "limit": {"at_most": 500_000, "at_least": None}, "value": 600_000}]


def test_the_pareto_front_is_marked_over_feasible_rows():
    entries = [
        *sized("best", 0.9, 300_000), *sized("cheap", 0.8, 1_000), *sized("beaten", 0.79, 2_000),
        *sized("huge", 0.95, 9_000_000), *sized("even", 0.8, 1_000),
    ]  # fmt: skip
    board = leaderboard(sweep_of(*entries, also_minimise=WEIGHTS, constraints={WEIGHTS: {"at_most": 1e6}}))
    assert {row.name for row in board.rows if row.is_on_front} == {"best", "cheap", "even"}
    assert [row.second for row in board.rows] == [300_000, 1_000, 1_000, 2_000, 9_000_000]
    narrow = text_of(board, 80)
    assert "300k ◆" in narrow
    assert "weights" in narrow
    assert text_of(board, 120).count("300k") == 1  # one column, not two
    assert "<td>300k ◆</td>" in page(board)
    assert "◆ Pareto front" in page(board)


def confirmed(name: str, *scores: float) -> list[tuple[str, dict[str, Any]]]:
    keys = [f"{name}{seed}" for seed in range(len(scores))]
    placements = [placed(key, arm=name, seed=seed, adapt__method="lora") for seed, key in enumerate(keys)]
    ends = [finished(key, probe_joint=score) for key, score in zip(keys, scores, strict=True)]
    return [*placements, *ends]


def test_confirmed_arms_rank_first_by_their_mean_with_an_interval_over_seeds():
    entries = [
        *frozen(), *confirmed("lucky", 0.99), *confirmed("sure", 0.9, 0.91, 0.92),
        *confirmed("near", 0.89, 0.92, 0.9), *confirmed("far", 0.80, 0.81, 0.82),
    ]  # fmt: skip
    board = leaderboard(sweep_of(*entries, search={"seeds": 3, "num_confirmed": 3}))
    assert [(row.name, row.differs, row.num_seeds) for row in board.rows] == [
        ("sure (×3)", None, 3), ("near (×3)", False, 3), ("far (×3)", True, 3), ("frozen", True, None),
        ("lucky (one seed)", None, 1),
    ]  # fmt: skip
    half = 4.30265 * 0.01 / 3**0.5
    assert board.rows[0].objective.low == pytest.approx(0.91 - half, abs=1e-6)
    for text in (text_of(board, 300), page(board)):
        assert ".903 [.87 .94]≈" in text
        assert "over seeds, not patients" in text
        assert "≈ after a score: it may equal that of the first row" in text
    assert max(map(len, text_of(board, 80).splitlines())) <= 80


class Page(HTMLParser):
    """Collects what a browser would fetch, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [name for name, _ in attrs if name in ("src", "href")]
        assert tag != "script"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path):
    board = leaderboard(sweep_of(*frozen(), *adapted("<script>alert(1)</script>"), *adapted(), *opened()))
    write_html(board, tmp_path / "board.html")
    text = (tmp_path / "board.html").read_text()
    assert text == page(board)
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    assert parser.fetched == []
    assert "&lt;script&gt;" in text
    for value in (".840 [.80 .87]", "+.122 [.08 .16]", ".410 [.30 .50]"):
        assert value in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.8414, ".841"), (1.0, "1.000"), (-0.05, "-.050"), (0.0004, ".000"), (10.04, "10.040")],
)
def test_scores_are_printed_without_a_leading_zero(value: float, expected: str):
    assert decimals(value, 3) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0"), (999, "999"), (123_456, "123k"), (1_500_000, "1.5M"), (None, "")]
)
def test_weights_are_counted_briefly(number: int | None, expected: str):
    assert count(number) == expected


def test_a_missing_value_is_an_empty_cell():
    assert cell(None) == ""


def opened_with_p(*values: float) -> list[tuple[str, dict[str, Any]]]:
    """The test values of `opened`, and a difference to the frozen probe with a p-value for each system."""
    entries = opened()
    pairs = [
        {
            "arm_a": "arm of rank=8", "system_a": system, "arm_b": "arm of frozen", "system_b": "probe_joint",
            "metric": "accuracy", "difference": 0.1, "low": 0.01, "high": 0.2, "p": p,
        }
        for system, p in zip(("probe_joint", "probe_pooled", "zero_shot_unseen"), values, strict=False)
    ]  # fmt: skip
    entries[1][1]["paired"] = pairs
    for system in ("probe_pooled", "zero_shot_unseen"):
        entries[1][1]["arms"]["rank=8"] |= interval(f"test/{system}/accuracy", 0.8)
    return entries


def test_differences_of_many_rows_are_corrected_together_and_the_caption_says_so():
    board = leaderboard(sweep_of(*frozen(), *adapted(probe_pooled=0.83), *opened_with_p(0.001, 0.03, 0.04)))
    found = {row.system: row.over_frozen.p for row in board.rows if row.over_frozen}
    expected = {"probe_joint": 0.003, "probe_pooled": 0.06, "zero_shot_unseen": 0.06}
    assert found == pytest.approx(expected)
    for text in (text_of(board, 200), page(board)):
        assert text.count("+.100 [.01 .20]≈") == 2
        assert "The differences in a column (at most 3) are tested together at 5 % (Holm)." in text
        assert "≈ after a difference: it may be 0" in text
    board = leaderboard(sweep_of(*frozen(), *adapted(), *opened_with_p(0.03)))
    assert "[.01 .20]≈" not in text_of(board, 200)


@pytest.mark.parametrize(("thumbnail", "is_shortcut"), [(0.833, True), (0.69, False)])
def test_a_control_near_the_frozen_probe_on_test_is_called_a_shortcut(thumbnail: float, is_shortcut: bool):
    entries = opened()
    entries[1][1]["arms"]["frozen"] = interval("test/probe_joint/accuracy", 0.722)
    entries[1][1]["arms"]["rank=8"] = interval("test/probe_joint/accuracy", 0.93)
    entries[1][1]["controls"] |= interval("test/control_thumbnail/accuracy", thumbnail)
    board = leaderboard(sweep_of(*frozen(), *adapted(), *entries))
    said = "the control '8 × 8 thumbnail' scores 0.833 accuracy on test, the best frozen probe 0.722"
    for text in (text_of(board, 300), page(board).replace("&#x27;", "'")):
        assert (said in text) == is_shortcut
    assert (board.shortcut is not None) == is_shortcut


@pytest.mark.parametrize("key", ["adapter_reused", "weights_reused", "embeddings_reused"])
def test_seconds_that_leave_out_work_of_an_earlier_trial_are_marked(key: str):
    entries = [*frozen(), *adapted()]
    entries[-1][1]["metrics"][f"perf/{key}"] = 1.0
    board = leaderboard(sweep_of(*entries))
    assert {row.name for row in board.rows if row.is_reused} == {"rank=8"}
    for text in (text_of(board, 120), page(board)):
        assert text.count("12↺") == 2
        assert "↺ embeddings or weights came from the store" in text
    assert "↺" not in text_of(leaderboard(sweep_of(*frozen(), *adapted())), 120)


def test_seconds_that_are_minimised_too_are_marked():
    entries = [*frozen(), *adapted()]
    for seconds, (_, payload) in zip((9, 2), (entries[1], entries[3]), strict=True):
        payload["metrics"]["perf/seconds"] = seconds
    entries[3][1]["metrics"]["perf/adapter_reused"] = 1.0
    text = text_of(leaderboard(sweep_of(*entries, also_minimise="perf/seconds")), 120)
    assert "2↺ ◆" in text
    assert "9↺" not in text


def test_a_narrow_terminal_leaves_the_intervals_of_val_accuracy_out_of_every_row():
    board = leaderboard(sweep_of(*frozen(), *adapted()))
    assert ".400 [.36 .43]" in text_of(board, 120)  # of a control
    assert ".740 [.70 .77]" in text_of(board, 120)
    narrow = text_of(board, 80)
    assert ".400 [" not in narrow
    assert ".740 [" not in narrow
