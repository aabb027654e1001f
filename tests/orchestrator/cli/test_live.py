"""The live table: scores of every kind of trial, and the time that is left."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.live import LiveTable
from orchestrator.cli.time_left import TimeLeft
from orchestrator.planning.plan import make_plan
from orchestrator.search.space_file import read_space
from orchestrator.storage.ledger import TrialState
from trainables.config import TrialConfig, to_flat

SMALL = {"data.dataset": "phantom", "data.phantom.num_train": 12, "data.phantom.num_val": 6,
         "data.phantom.num_test": 6}  # fmt: skip


def trial_of(
    key: str, *, seconds: float | None = None, is_baseline: bool = False, **config: Any
) -> TrialState:
    fields = {name.replace("__", "."): value for name, value in config.items()}
    trial = TrialState(key, key, key, to_flat(TrialConfig()) | {"num_epochs": 4} | fields, is_baseline)
    if seconds is not None:
        trial.status, trial.seconds = "finished", seconds
    return trial


def running(key: str, epoch: int | None = None, **options: Any) -> TrialState:
    trial = trial_of(key, **options)
    trial.status = "running" if epoch else "placed"
    trial.history = [(1, epoch, {})] if epoch else []
    return trial


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveTable:
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path))
    space = read_space({
        "name": "s", "fixed": SMALL, "parameters": {"lora.rank": {"choice": [4, 8]}},
        "search": {"searcher": "grid", "max_concurrent": 1},
        "baselines": [{"name": "ResNet-18", "adapt.method": "baseline"}],
    })  # fmt: skip
    with LiveTable(make_plan(space), uri="sqlite://") as live:
        yield live


def text_of(table: LiveTable) -> str:
    console = Console(width=120, file=io.StringIO(), no_color=True)
    console.print(table.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("from_scratch", "system"), [(False, "baseline"), (True, "baseline_from_scratch")])
def test_a_baseline_shows_its_score_while_it_runs_and_at_its_end(
    table: LiveTable, from_scratch: bool, system: str
) -> None:
    config = {"adapt__method": "baseline", "baseline__from_scratch": from_scratch}
    trial = running("ResNet-18", 1, is_baseline=True, **config)
    trial.metrics = {f"val/{system}/macro_auroc": 0.8125}
    table.on_trial_placed(trial)
    assert "0.8125" in text_of(table)
    assert table.score(trial) == "0.8125"


def test_the_table_says_how_long_it_still_takes(table: LiveTable, monkeypatch: pytest.MonkeyPatch) -> None:
    now = table.began + 100
    monkeypatch.setattr("orchestrator.cli.live.time.monotonic", lambda: now)
    assert "left" not in text_of(table)  # no duration is known yet
    for name in ("frozen encoder", "ResNet-18"):
        table.on_trial_placed(trial_of(name, seconds=20, is_baseline=True))
    table.on_trial_placed(trial_of("rank=4", seconds=200))
    table.on_trial_placed(running("rank=8"))
    now += 20
    assert "3 of 4 trials, 2:00, about 3 min left" in text_of(table)
    table.trials["rank=8"].status = "finished"
    assert "left" not in text_of(table)


def left(trials: list[TrialState], *, at_once: int = 1, now: float = 0, **planned: Any) -> float | None:
    placed = dict.fromkeys((trial.trial_key for trial in trials), 0.0)
    clock = TimeLeft(num_searched=4, num_baselines=1, at_once=at_once, placed=placed, **planned)
    return clock.seconds(trials, now, 0)


BASELINE = trial_of("frozen", seconds=2, is_baseline=True)


def test_before_a_trial_of_its_kind_has_ended_only_epochs_or_the_plan_say_what_trials_take() -> None:
    assert left([BASELINE]) is None  # a quick baseline says nothing of the trials that train
    assert left([BASELINE], planned_seconds=90, now=30) == 60
    assert left([BASELINE, running("a", 1)], now=10) == pytest.approx(30 + 3 * 40)
    assert left([BASELINE, running("a")], now=10) is None


def test_trials_that_run_at_once_share_the_work_and_the_longest_ends_last() -> None:
    ended = [BASELINE, trial_of("a", seconds=40)]
    assert left(ended, at_once=2) == pytest.approx(3 * 40 / 2)
    assert left([*ended, running("b"), running("c")], at_once=2, now=10) == pytest.approx((30 + 30 + 40) / 2)
    assert left([*ended, running("b"), running("c"), running("d")], at_once=8, now=10) == pytest.approx(30)


def test_a_trial_that_reused_an_adapter_says_nothing_of_the_others() -> None:
    reused = trial_of("b", seconds=1)
    reused.metrics["perf/adapter_reused"] = 1.0
    assert left([BASELINE, trial_of("a", seconds=40), reused]) == pytest.approx(2 * 40)
    failed = trial_of("c")
    failed.status = "failed"
    assert left([BASELINE, trial_of("a", seconds=40), reused, failed]) == pytest.approx(40)
