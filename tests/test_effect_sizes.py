"""The story of the demo must hold on a phantom that nobody tuned on: its seed is named at test time."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from orchestrator.storage.ledger import SweepState, read_ledger
from orchestrator.storage.paths import sweep_folder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]
SEED = int(os.environ.get("PHANTOM_SEED", date.today().toordinal()))


def sweep(name: str, *settings: str, home: Path) -> SweepState:
    """Runs `search_spaces/phantom.yaml` as a user does, on the data seed named above."""
    command = [sys.executable, "-m", "orchestrator", "sweep", "phantom", "--name", name, "--json"]
    for setting in (f"data.seed={SEED}", *settings):
        command += ["--set", setting]
    environment = os.environ | {"CLIP_ORCHESTRATOR_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["rows"]
    return read_ledger(sweep_folder(name))


def test_adapting_beats_the_frozen_probe_and_the_thumbnail(home: Path) -> None:
    smaller = ("encoder.image_size=96", "data.num_views=2", "num_epochs=5")  # a third of the time
    state = sweep("effects", *smaller, home=home)
    assert state.evaluated is not None
    arm = {trial.name: trial.arm_key for trial in state.trials.values()}
    metrics = {trial.name: state.evaluated.arms[trial.trial_key] for trial in state.trials.values()}
    frozen, adapted, controls = metrics["frozen encoder"], metrics["LoRA"], state.evaluated.controls

    def difference(system: str, other: str, *, arm_b: str | None) -> tuple[float, float]:
        row = next(
            row
            for row in state.evaluated.paired
            if (row["arm_a"], row["system_a"]) == (arm["LoRA"], system)
            and (row["arm_b"], row["system_b"]) == (arm_b, other)
            and row["metric"] == "accuracy"
        )
        return row["difference"], row["low"]

    assert 0.28 <= controls["test/control_prior/accuracy"] <= 0.39, SEED
    assert frozen["test/zero_shot_unseen/accuracy"] <= 0.45, SEED
    assert 0.55 <= frozen["test/probe_joint/accuracy"] <= 0.80, SEED
    assert 0.55 <= frozen["test/probe_pooled/accuracy"] <= 0.80, SEED
    for probe in ("probe_joint", "probe_pooled"):
        gain, low = difference("probe_joint", probe, arm_b=arm["frozen encoder"])
        assert gain >= 0.10, (SEED, probe)
        assert low > 0, (SEED, probe)
    gain, low = difference("probe_joint", "control_thumbnail", arm_b=None)
    assert gain >= 0.05, SEED
    assert low > 0, SEED
    gain = adapted["test/zero_shot_unseen/accuracy"] - frozen["test/zero_shot_unseen/accuracy"]
    assert gain >= 0.30, SEED


def test_with_permuted_labels_everything_scores_at_chance(home: Path) -> None:
    state = sweep(
        "permuted",
        "data.permute_labels=true",
        "data.phantom.num_train=600",
        "encoder.image_size=64",
        "num_epochs=2",
        "data.num_views=1",
        home=home,
    )
    assert state.evaluated is not None
    scores = {
        (trial.name, key): value
        for trial in state.trials.values()
        for key, value in state.evaluated.arms[trial.trial_key].items()
        if key.endswith("/accuracy")
    }
    assert len(scores) >= 12
    # 900 images of some 600 patients: five standard errors around a third.
    assert all(abs(value - 1 / 3) < 0.09 for value in scores.values()), (SEED, scores)
