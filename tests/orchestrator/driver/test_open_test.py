from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.driver import open_test as open_test_module
from orchestrator.driver.controller import Controller, RunSettings
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.open_test import arms_to_open, by_data, first_on_val, join, open_test
from orchestrator.search.space_file import read_space
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, SweepState, TrialState, read_ledger
from trainables.config import from_flat, to_flat
from trainables.data.datasets import load_dataset
from trainables.scoring.predictions import Scores, write_predictions

OBJECTIVE, WEIGHTS = "val/probe_joint/macro_auroc", "perf/num_trainable_parameters"
SMALL = {"data.phantom.num_train": 12, "data.phantom.num_val": 6, "data.phantom.num_test": 60}


def trial_of(key: str, *, arm: str | None = None, score: float = 0.5, **changes) -> TrialState:
    config = to_flat(from_flat(SMALL | {name.replace("__", "."): value for name, value in changes.items()}))
    trial = TrialState(key, arm or f"arm-{key}", key, config, is_baseline=config["adapt.method"] == "none")
    trial.status, trial.workdir, trial.metrics = "finished", f"trials/{key}", {OBJECTIVE: score}
    trial.results = {open_test_module.PREDICTIONS: "sha"}
    return trial


def predict(folder: Path, trial: TrialState, *, accuracy: float, system: str = "probe_joint") -> None:
    """Writes test predictions of about this accuracy, without noise between runs."""
    dataset = load_dataset(from_flat(trial.config).data, with_test_labels=True)
    test = dataset.indices("test")
    rng = np.random.default_rng(0)
    said = np.where(
        rng.random(len(test)) < accuracy, dataset.class_indices(test), rng.integers(0, 3, len(test))
    )
    scores = np.full((len(test), 3), 0.1)
    scores[np.arange(len(test)), said] = 0.8
    ids = np.array([dataset.records[i].image_id for i in test])
    write_predictions(
        folder / trial.workdir / open_test_module.PREDICTIONS, {("test", system): Scores(ids, scores)}
    )


@pytest.fixture
def controller(tmp_path: Path):
    with Ledger(tmp_path) as ledger:
        yield Controller(RunSettings(tmp_path, identify=None), ledger, None, SweepObserver())


def test_the_opening_is_on_disk_before_a_label_is_read(
    controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trial = trial_of("a")
    predict(tmp_path, trial, accuracy=0.9)
    opened = []

    def watched(config, *, with_test_labels: bool = False):
        assert with_test_labels
        opened.append(read_ledger(tmp_path).test_opened)
        return load_dataset(config, with_test_labels=True)

    monkeypatch.setattr(open_test_module, "load_dataset", watched)
    open_test(controller, [[trial]])
    assert [event.trial_keys for _, event in opened[0]] == [["a"]]


def test_adapted_and_frozen_arms_are_judged_and_compared(controller: Controller, tmp_path: Path):
    frozen, adapted = trial_of("frozen", adapt__method="none"), trial_of("adapted")
    predict(tmp_path, frozen, accuracy=0.3)
    predict(tmp_path, adapted, accuracy=0.95)
    open_test(controller, [[frozen], [adapted]])
    found = read_ledger(tmp_path).evaluated
    assert (
        found.arms["adapted"]["test/probe_joint/accuracy"] > found.arms["frozen"]["test/probe_joint/accuracy"]
    )
    pair = next(row for row in found.paired if row["metric"] == "accuracy")
    assert (pair["arm_a"], pair["arm_b"]) == ("arm-adapted", "arm-frozen")
    assert pair["low"] > 0
    assert pair["p"] < 0.05


def test_an_adapted_arm_is_compared_with_the_frozen_arm_of_its_own_encoder(
    controller: Controller, tmp_path: Path
):
    small, large = ({"encoder__image_size": size} for size in (32, 64))
    trials = [
        trial_of("small", adapt__method="none", **small),
        trial_of("large", adapt__method="none", **large),
        trial_of("adapted", lora__rank=4, **large),
    ]
    for trial in trials:
        predict(tmp_path, trial, accuracy=0.5, system="zero_shot_unseen")
    open_test(controller, [[trial] for trial in trials])
    pairs = {(row["arm_a"], row["arm_b"]) for row in read_ledger(tmp_path).evaluated.paired}
    assert pairs == {("arm-adapted", "arm-large")}


def test_each_fold_opens_its_own_part_and_they_are_pooled(controller: Controller, tmp_path: Path):
    folds = [trial_of(f"fold{i}", arm="cv", data__num_folds=3, data__fold=i) for i in range(3)]
    for trial in folds:
        predict(tmp_path, trial, accuracy=0.9)
    open_test(controller, [folds])
    found = read_ledger(tmp_path).evaluated
    assert set(found.arms) == {"fold0", "fold1", "fold2"}
    assert found.pooled["cv"]["test/probe_joint/accuracy"] == pytest.approx(0.9, abs=0.1)
    assert found.notes == []


def test_without_predictions_no_label_is_opened(controller: Controller, tmp_path: Path):
    trial = trial_of("a")
    trial.results = {}
    open_test(controller, [[trial]])
    assert read_ledger(tmp_path).test_opened == []


def state_of(*trials: TrialState) -> SweepState:
    state = SweepState("s", started=SweepStarted(name="s", objective=OBJECTIVE))
    state.trials = {trial.trial_key: trial for trial in trials}
    return state


def test_of_a_search_the_best_on_val_and_the_baselines_are_opened():
    frozen = trial_of("frozen", adapt__method="none", score=0.9)
    state = state_of(frozen, trial_of("a", score=0.6), trial_of("b", score=0.95), trial_of("c", score=0.7))
    state.trials["d"] = trial_of("d", score=0.99)
    state.trials["d"].status = "failed"
    search = read_space({"name": "s", "parameters": {"lora.rank": {"choice": [4, 8]}}})
    assert [[trial.name for trial in arm] for arm in arms_to_open(state, search)] == [["frozen"], ["b"]]


def test_an_infeasible_arm_is_never_opened_unless_it_is_a_baseline():
    frozen = trial_of("frozen", adapt__method="none", score=0.4)
    state = state_of(frozen, trial_of("a", score=0.6), trial_of("large", score=0.9))
    search = read_space(
        {
            "name": "s",
            "parameters": {"lora.rank": {"choice": [4, 8]}},
            "constraints": {WEIGHTS: {"at_most": 9}},
        }
    )
    state.started = replace(state.started, space=search.to_dict())
    for trial, weights in zip(state.trials.values(), (10, 9, 10), strict=True):
        trial.metrics[WEIGHTS] = weights
    assert [[trial.name for trial in arm] for arm in arms_to_open(state, search)] == [["frozen"], ["a"]]


POOLED = "val/probe_pooled/macro_auroc"


def test_the_first_row_and_the_best_adapted_and_frozen_rows_are_opened_whatever_the_objective_says():
    trials = {
        "frozen": trial_of("frozen", adapt__method="none", score=0.6),
        "other": trial_of("other", adapt__method="none", encoder__image_size=64, score=0.5),
        "by objective": trial_of("by objective", score=0.8),
        "first row": trial_of("first row", score=0.7),
        "neither": trial_of("neither", score=0.75),
        "classifier": trial_of("classifier", adapt__method="baseline"),
    }
    trials["other"].is_baseline = False  # searched, not named
    trials["other"].metrics[POOLED] = 0.65
    trials["first row"].metrics[POOLED] = 0.9
    trials["classifier"].metrics = {"val/baseline/macro_auroc": 0.95}
    state = state_of(*trials.values())
    search = read_space({"name": "s", "parameters": {"lora.rank": {"choice": [4, 8]}}})
    opened = {trial.name for arm in arms_to_open(state, search) for trial in arm}
    assert opened == {"frozen", "other", "first row", "classifier"}
    trials["classifier"].metrics = {"val/baseline/macro_auroc": 0.55}
    opened = {trial.name for arm in arms_to_open(state, search) for trial in arm}
    assert opened == {"frozen", "other", "by objective", "first row"}
    assert first_on_val(state, arms_to_open(state, search)) == ("arm-first row", "probe_pooled")


def test_a_row_that_predicts_nothing_gives_its_place_to_the_next():
    stopped, whole = trial_of("stopped", score=0.9), trial_of("whole", score=0.8)
    stopped.results, stopped.stopped_early = {}, True
    search = read_space({"name": "s", "parameters": {"lora.rank": {"choice": [4, 8]}}})
    frozen = trial_of("frozen", adapt__method="none")
    opened = arms_to_open(state_of(frozen, stopped, whole), search)
    assert [[trial.name for trial in arm] for arm in opened] == [["frozen"], ["whole"]]


def test_the_best_confirmed_arm_is_opened_with_all_its_seeds():
    state = state_of(
        trial_of("lucky", score=0.99),
        *(trial_of(f"sure{seed}", arm="sure", score=0.8, seed=seed) for seed in range(2)),
        *(trial_of(f"base{seed}", arm="base", adapt__method="projection", seed=seed) for seed in range(2)),
    )
    for key in ("base0", "base1"):
        state.trials[key].is_baseline = True
    search = read_space(
        {"name": "s", "parameters": {"lora.rank": {"choice": [4, 8]}}, "search": {"seeds": 2}}
    )
    state.started = replace(state.started, space=search.to_dict())
    assert [[trial.name for trial in arm] for arm in arms_to_open(state, search)] == [
        ["sure0", "sure1"],
        ["base0", "base1"],
    ]


def test_named_arms_are_opened_with_all_their_folds():
    state = state_of(*(trial_of(f"{arm}{i}", arm=arm, score=0.5 + i / 10) for arm in "ab" for i in range(2)))
    named = read_space({"name": "s", "arms": [{"name": "a"}, {"name": "b", "adapt.method": "lora"}]})
    assert [[trial.name for trial in arm] for arm in arms_to_open(state, named)] == [
        ["a0", "a1"],
        ["b0", "b1"],
    ]


def test_labels_of_different_data_are_not_mixed():
    trials = [
        trial_of("a"),
        trial_of("b", data__augmentation="none", lora__rank=4),
        trial_of("c", data__permute_labels=True),
        trial_of("d", data__seed=1),
    ]
    assert [[trial.name for trial in group] for group in by_data(trials)] == [["a", "b"], ["c"], ["d"]]


def test_evaluations_of_two_data_sets_are_joined():
    one = {"arms": {"a": 1}, "paired": [1], "controls": {"x": 1}, "reference": {"arm": "a"}}
    other = {"arms": {"b": 2}, "paired": [2], "controls": {"x": 9}, "reference": {"arm": "b"}}
    expected = {"arms": {"a": 1, "b": 2}, "paired": [1, 2], "controls": {"x": 1}}
    assert join(join({}, one), other) == expected | {"reference": {"arm": "a"}}
