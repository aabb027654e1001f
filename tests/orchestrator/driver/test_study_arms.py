"""Every method of the study as an arm of one real sweep: what each leaves, and how they rank together."""

from pathlib import Path

import pytest
from sweep_process import run_driver

from orchestrator.results.leaderboard import Leaderboard, leaderboard
from orchestrator.storage.events import Evaluated
from orchestrator.storage.ledger import SweepState, read_ledger
from trainables import TRAINABLES

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SPACE = {
    "name": "study",
    "fixed": {
        "data.phantom.num_train": 40,
        "data.phantom.num_val": 24,
        "data.phantom.num_test": 24,
        "data.num_views": 2,
        "encoder.image_size": 32,
        "baseline.image_size": 32,
        "global_batch_size": 16,
        "num_epochs": 1,
    },
    "baselines": [
        {
            "name": "frozen",
            "adapt.method": "none",
            "probe.shots": [1, 4],
            "probe.num_draws": 3,
            "zero_shot.prompts": ["class_name", "template", "unseen", "pair"],
        }
    ],
    "arms": [
        {"name": "LoRA", "adapt.method": "lora+projection", "data.captions": "template"},
        {"name": "ResNet-18, random", "adapt.method": "baseline", "baseline.from_scratch": True},
        {"name": "ResNet-18", "adapt.method": "baseline"},
        {"name": "LoRA, BLIP", "data.captions": "blip_label", "captioner.name": "Salesforce/blip-none"},
    ],
    "search": {"max_concurrent": 1},
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> SweepState:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "no weights"))
        seen = run_driver(folder / "home", SPACE, name="study", trainable=TRAINABLES["adapt"])
    assert seen["exit_code"] == 0  # what is unavailable has not failed
    return read_ledger(Path(folder / "home" / "sweeps" / "study"))


@pytest.fixture(scope="module")
def board(state: SweepState) -> Leaderboard:
    return leaderboard(state)


def test_each_system_of_each_method_is_ranked_by_the_same_metric(board: Leaderboard) -> None:
    systems = {(row.name, row.system) for row in board.rows}
    assert {("ResNet-18, random", "baseline_from_scratch"), ("LoRA", "probe_joint")} <= systems
    for system in ("few_shot_1_joint", "few_shot_4_pooled", "zero_shot_pair", "zero_shot_class_name"):
        assert ("frozen", system) in systems
    values = [row.objective.value for row in board.rows]
    assert values == sorted(values, reverse=True)


def test_test_labels_were_opened_for_all_of_them_by_evaluate_alone(
    board: Leaderboard, state: SweepState
) -> None:
    assert len(state.test_opened) == 1
    assert all(row.test_accuracy for row in board.rows)
    trials = [trial for trial in state.trials.values() if trial.status == "finished"]
    assert not any(key.startswith("test/") for trial in trials for key in trial.metrics)
    (scratch,) = [row for row in board.rows if row.system == "baseline_from_scratch"]
    assert scratch.over_frozen is not None
    pairs = {(row["system_a"], row["system_b"]) for row in (state.evaluated or Evaluated()).paired}
    assert ("probe_joint", "baseline_from_scratch") in pairs
    assert ("baseline_from_scratch", "control_thumbnail") in pairs


def test_what_has_no_weights_here_is_unavailable_and_says_how_to_get_them(board: Leaderboard) -> None:
    reasons = {absent.name: (absent.status, absent.reason) for absent in board.absent}
    assert reasons.keys() == {"ResNet-18", "LoRA, BLIP"}
    assert all(status == "unavailable" for status, _ in reasons.values())
    assert "curl" in reasons["ResNet-18"][1]
    assert "models convert" in reasons["LoRA, BLIP"][1]


def test_a_baseline_reports_its_epoch_and_its_cost(state: SweepState) -> None:
    (trial,) = [trial for trial in state.trials.values() if trial.name == "ResNet-18, random"]
    assert [epoch for _, epoch, _ in trial.history] == [1]
    assert trial.metrics["perf/num_trainable_parameters"] == 11_178_051
    assert "results/predictions.parquet" in trial.results
