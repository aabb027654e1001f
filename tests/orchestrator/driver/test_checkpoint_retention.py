"""Which checkpoints of a sweep stay on disk."""

import os
from pathlib import Path

from orchestrator.driver.checkpoint_retention import forget, prune, size_of
from orchestrator.storage.ledger import SweepState, TrialState


def sweep_with(folder: Path, **statuses: str) -> SweepState:
    """Each trial with a checkpoint of 100 bytes, the first one the oldest."""
    state = SweepState("s")
    for age, (key, status) in enumerate(statuses.items()):
        state.trials[key] = TrialState(key, key, key, {}, status=status)
        place = folder / "trials" / key / "checkpoints"
        (place / "step-00000001").mkdir(parents=True)
        (place / "step-00000001" / "parameters.safetensors").write_bytes(b"x" * 100)
        (place.parent / "steps.jsonl").write_text("{}")
        os.utime(place, (1_000 + age, 1_000 + age))
    return state


def left(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("trials/*/checkpoints"))


def test_a_finished_trial_keeps_its_results_and_no_checkpoint(tmp_path: Path):
    state = sweep_with(tmp_path, a="finished", b="running", c="failed", d="placed")
    forget(tmp_path, "a")
    assert prune(tmp_path, state, budget_bytes=1e9) == []
    assert left(tmp_path) == ["b", "c", "d"]
    assert (tmp_path / "trials" / "a" / "steps.jsonl").is_file()


def test_over_the_budget_the_oldest_of_failed_trials_go_first(tmp_path: Path):
    state = sweep_with(tmp_path, old="failed", mid="failed", new="failed", runs="running")
    assert prune(tmp_path, state, budget_bytes=300) == ["old"]
    assert left(tmp_path) == ["mid", "new", "runs"]
    assert prune(tmp_path, state, budget_bytes=0) == ["new", "mid"]
    assert left(tmp_path) == ["runs"]  # what runs is never taken


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path):
    sweep_with(tmp_path, a="failed")
    assert size_of(tmp_path / "trials" / "a" / "checkpoints") == 100
