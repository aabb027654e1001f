"""The test labels of several findings per image, from predictions to the ledger and to the leaderboard."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.driver.controller import Controller, RunSettings
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.open_test import PREDICTIONS, open_test
from orchestrator.results.leaderboard import leaderboard
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, SweepState, TrialState, read_ledger
from trainables.config import from_flat, to_flat
from trainables.data.datasets import load_dataset
from trainables.data.records import NO_FINDING
from trainables.scoring.predictions import Scores, write_predictions

SMALL = {
    "data.dataset": "phantom_findings",
    "data.phantom.num_train": 60,
    "data.phantom.num_val": 40,
    "data.phantom.num_test": 60,
}


def trial_of(folder: Path, name: str, arm: str, *, skill: float, **changes: object) -> TrialState:
    """A finished trial. The higher its skill, the better its scores follow the labels of test."""
    config = to_flat(from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()}))
    trial = TrialState(
        name, arm, name, config, is_baseline=config["adapt.method"] == "none", status="finished"
    )
    trial.workdir, trial.results = f"trials/{name}", {PREDICTIONS: "sha"}
    trial.metrics = {"val/probe_joint/macro_auroc": 0.5 + skill / 4}
    dataset = load_dataset(from_flat(config).data, with_test_labels=True)
    test = dataset.indices("test")
    labels, rng = dataset.targets(test), np.random.default_rng(0)
    ids = np.array([dataset.records[i].image_id for i in test])
    noise = rng.random(labels.shape)
    predictions = {
        ("test", "probe_joint"): Scores(ids, (skill * (labels == 1) + noise) / (1 + skill)),
        ("test", "control_thumbnail"): Scores(ids, noise),
    }
    write_predictions(folder / trial.workdir / PREDICTIONS, predictions, "multilabel")
    return trial


def opened(folder: Path, arms: list[list[TrialState]]) -> SweepState:
    with Ledger(folder) as ledger:
        controller = Controller(RunSettings(folder, identify=None), ledger, None, SweepObserver())
        open_test(controller, arms)
    dataset = load_dataset(from_flat(arms[0][0].config).data)
    started = SweepStarted(name="s", task=dataset.task, findings=list(dataset.findings))
    return replace(
        read_ledger(folder), started=started, trials={each.trial_key: each for arm in arms for each in arm}
    )


def test_arms_are_compared_by_macro_auroc_and_every_finding_is_listed(tmp_path: Path) -> None:
    frozen = trial_of(tmp_path, "frozen", "f", skill=0.1, adapt__method="none")
    adapted = trial_of(tmp_path, "adapted", "a", skill=1.0)
    board = leaderboard(opened(tmp_path, [[frozen], [adapted]]))
    first, second = board.rows
    assert (first.name, second.is_reference) == ("adapted", True)
    assert first.over_frozen is not None
    assert first.test_auroc is not None
    assert second.test_auroc is not None
    gain = first.test_auroc.value - second.test_auroc.value
    assert first.over_frozen.value == pytest.approx(gain)
    assert first.error_cut is not None
    assert first.error_cut.value == pytest.approx(gain / (1 - second.test_auroc.value))
    table = board.finding_table
    assert table is not None
    assert [(column.arm_key, column.system) for column in table.columns] == [
        ("a", "probe_joint"), ("f", "probe_joint"), (None, "control_thumbnail"),
    ]  # fmt: skip
    assert [row.finding for row in table.rows] == [*board.findings, NO_FINDING]
    assert {row.num_positive + row.num_negative + row.num_unknown for row in table.rows} == {60}
    averaged = [row.aurocs[0].value for row in table.rows if row.is_averaged and row.aurocs[0]]
    assert first.test_auroc.value == pytest.approx(np.mean(averaged))


def test_the_folds_of_an_arm_are_joined_in_the_table_of_findings(tmp_path: Path) -> None:
    folds = [
        trial_of(tmp_path, f"fold{i}", "cv", skill=1.0, data__num_folds=2, data__fold=i) for i in range(2)
    ]
    board = leaderboard(opened(tmp_path, [folds]))
    assert board.finding_table is not None
    column, _ = board.finding_table.columns
    assert column.arm_key == "cv"
    assert {row.num_positive + row.num_negative for row in board.finding_table.rows} == {160}
