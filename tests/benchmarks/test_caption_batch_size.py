"""Each batch size is compared with batch 80, seed by seed."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path

import pytest
from caption_batch_size import compare

from orchestrator.search.space_file import load_space
from orchestrator.storage.events import Evaluated
from orchestrator.storage.ledger import SweepState, TrialState

SPACE = Path(__file__).parents[2] / "search_spaces" / "caption_batch_size.yaml"
AUROC = {
    ("none", "clip", 80, 8): (0.60, 0.60, 0.60),
    ("lora", "clip", 80, 8): (0.70, 0.72, 0.74),
    ("lora", "clip", 256, 8): (0.68, 0.70, 0.72),
    ("lora", "clip", 256, 26): (0.71, 0.72, 0.76),
}


def state(auroc: dict[tuple[str, str, int, int], tuple[float, ...]]) -> SweepState:
    trials, arms, number = {}, {}, count()
    for (method, loss, batch_size, num_epochs), values in auroc.items():
        for seed, value in enumerate(values):
            key = f"trial{next(number)}"
            config = {
                "adapt.method": method, "loss.kind": loss, "global_batch_size": batch_size,
                "num_epochs": num_epochs, "seed": seed,
            }  # fmt: skip
            trials[key] = TrialState(key, key, key, config)
            arms[key] = {"test/probe_joint/macro_auroc": value, "test/zero_shot_unseen/macro_auroc": 0.5}
    return SweepState("a", trials=trials, evaluated=Evaluated(arms=arms))


def test_differences_are_by_seed_and_say_what_is_equal() -> None:
    rows = [row for row in compare(state(AUROC)) if row["system"] == "probe_joint"]
    assert [row["mean"] for row in rows] == pytest.approx([0.60, 0.72, 0.70, 0.73])
    assert [row.get("equal") for row in rows] == [None, None, "epochs", "steps"]
    assert rows[2]["over_smallest"] == pytest.approx({"difference": -0.02, "low": -0.02, "high": -0.02})
    steps = rows[3]["over_smallest"]
    assert steps["difference"] == pytest.approx(0.01)
    assert steps["high"] - steps["difference"] == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)


def test_a_missing_seed_is_refused() -> None:
    with pytest.raises(SystemExit, match="seeds"):
        compare(state(AUROC | {("lora", "clip", 256, 8): (0.68, 0.70)}))


def test_the_space_has_equal_epochs_and_equal_steps() -> None:
    space = load_space(SPACE, [])
    num_train = space.fixed["data.phantom.num_train"]
    assert len(space.arms) == 10
    steps = set()
    for arm in space.arms:
        settings = space.fixed | arm
        size, epochs = settings["global_batch_size"], settings["num_epochs"]
        num_steps = epochs * -(-num_train // size)
        assert arm["name"] == f"{settings['loss.kind']}: {size}, {epochs} epochs, {num_steps} steps"
        steps.add(num_steps)
    assert steps == {208, 64, 16}
