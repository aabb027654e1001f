"""The benchmark of what the orchestrator costs: its arithmetic, and a thousand trials that do nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sweep


def test_the_pace_leaves_out_the_start() -> None:
    slow_start = [float(10 * i) for i in range(sweep.WARM_UP)]
    steady = [1000 + 0.5 * i for i in range(11)]
    assert sweep.pace(slow_start + steady) == pytest.approx(0.5)


def test_bare_calls_do_the_work_of_the_trials() -> None:
    once, often = (sweep.bare_calls(rounds, num_trials=2, at_once=1) for rounds in (1, 400))
    assert often > once


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_thousand_trials_cost_milliseconds_and_no_memory(tmp_path: Path) -> None:
    sweep.main(["no-op", "--trials", "1000", "--rounds", "1", "--output", str(tmp_path / "no-op.json")])
    (one,) = json.loads((tmp_path / "no-op.json").read_text())["rounds"]
    growth = {}
    for who in ("ours", "tune"):
        memory = one[who]["driver_mib_every_100_trials"]
        assert len(memory) == 10
        growth[who] = memory[-1] - memory[1]  # of 800 trials, once all that is loaded late is there
    # Ray and Tune keep some 36 KiB of every trial themselves. Beside that, ours keeps its configuration and
    # metrics, 21 KiB: 17 MiB were measured. Twice as much of a trial would fail.
    assert growth["ours"] - growth["tune"] < 30
    extra = one["ours"]["seconds_a_trial"] - one["tune"]["seconds_a_trial"]
    assert extra < 0.15  # of a trial of one second
