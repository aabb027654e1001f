"""What a step sends: counted in two real processes, and computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scaling


def test_the_formula_is_what_a_step_sends() -> None:
    case = (64, 16, 32, 5000, 2)
    found, paper = scaling.count(case), scaling.traffic(*case[:4])
    assert (found["gathered"], found["reduced"], found["calls"]) == (
        paper.gathered,
        paper.reduced,
        paper.calls,
    )


def test_a_ring_sends_no_more_for_more_processes() -> None:
    sent = [scaling.traffic(4096, 4096, 512, 1_000_000).wire(world_size) for world_size in (1, 2, 64, 1000)]
    assert sent[0] == 0
    assert sent[1] < sent[2] < sent[3] < 2 * sent[1]


def test_rates_name_the_middle_and_the_slow_end(tmp_path: Path) -> None:
    seconds = [0.01] * 98 + [0.5, 1.0]
    found = scaling.rates(seconds)
    assert (found["a_second"], found["ms_median"], found["ms_p99"]) == (100.0, 10.0, 500.0)
    scaling.main(["ledger", "--count", "20", "--output", str(tmp_path / "ledger.json")])
    measured = json.loads((tmp_path / "ledger.json").read_text())
    assert measured["count"] == 20
    assert measured["bytes_an_entry"] > 20 * len("val/probe_joint/metric_0")


@pytest.mark.parametrize(
    ("command", "name", "is_of_trial"),
    [
        (["ray::ImplicitFunc.train(trial_id=1)"], "ray::ImplicitFunc", True),
        (["ray::TrainController"], "ray::TrainController", True),
        (["ray::RayTrainWorker.run_train_fn"], "ray::RayTrainWorker", False),
        (["ray::_AutoscalingCoordinatorActor"], "ray::_AutoscalingCoordinatorActor", False),
        (["ray::IDLE"], "ray::IDLE", False),
        (["/x/python", "-u", "/x/ray/dashboard/agent.py", "--port=1"], "agent.py", False),
        (["/x/ray/core/src/ray/gcs/gcs_server", "--log=y"], "gcs_server", False),
    ],
)
def test_processes_are_told_apart(command: list[str], name: str, is_of_trial: bool) -> None:
    assert scaling.name_of(command) == name
    assert scaling.is_driver_of_trial(name) == is_of_trial
