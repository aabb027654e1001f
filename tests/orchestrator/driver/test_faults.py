"""What machines do to sweeps: full and damaged disks, processes and nodes that die. Each on a real Ray."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from sweep_process import alive, run_driver, start_driver, wait_for
from toy_sweep import descendants
from walk_sweep import WALK, assert_equal_to, sweep_of, values, walk_space

from orchestrator.storage.events import TrialWarned
from orchestrator.storage.ledger import LedgerReader


def trial_of(home: Path, rank: int):
    return next(trial for trial in sweep_of(home).trials.values() if trial.name == f"rank={rank}")


def messages(seen: dict) -> list[str]:
    return [event[1] for event in seen["events"] if event[0] == "message"]


def test_damaged_checkpoints_are_named_and_never_replaced_by_the_start(tmp_path: Path):
    home = tmp_path / "home"
    seen = run_driver(home, walk_space(108, 109, 110), **WALK)
    assert seen["exit_code"] == 3
    newest, every, halved = (trial_of(home, rank) for rank in (108, 109, 110))
    trained = (home / "store" / "epochs.txt").read_text().splitlines()

    assert (newest.status, newest.attempts) == ("finished", 2)
    assert [epoch for _, epoch, _ in newest.history] == [1, 2, 3, 4]
    events = [entry.event for entry in LedgerReader(home / "sweeps" / "walk").poll()]
    warned = [event for event in events if isinstance(event, TrialWarned)]
    assert [event.trial_key for event in warned] == [newest.trial_key]
    assert "step-00000002/parameters.safetensors" in warned[0].message
    assert any("resumes from an earlier checkpoint" in text for text in messages(seen))
    assert [trained.count(f"{newest.trial_key} {epoch}") for epoch in (1, 2)] == [1, 2]  # from step 1 on

    assert (every.status, every.cause) == ("failed", "user_error")
    assert "no sound checkpoint is left" in every.message
    assert "step-00000001/parameters.safetensors" in every.message
    assert trained.count(f"{every.trial_key} 1") == 1

    assert (halved.status, halved.attempts) == ("finished", 2)
    assert trained.count(f"{halved.trial_key} 2") == 1
    assert not list((home / "sweeps" / "walk" / "trials").rglob(".step-*"))


def test_a_driver_killed_in_the_middle_of_a_checkpoint_loses_nothing(tmp_path: Path):
    home = tmp_path / "home"
    driver = start_driver(home, walk_space(112, 2), **WALK)
    driver.communicate(timeout=240)
    assert driver.returncode == -signal.SIGKILL
    assert run_driver(home, walk_space(112, 2), **WALK, resumes=True)["exit_code"] == 0
    trial = trial_of(home, 112)
    assert (trial.status, trial.attempts) == ("finished", 2)
    assert [epoch for _, epoch, _ in trial.history] == [1, 2, 3, 4]
    trained = (home / "store" / "epochs.txt").read_text().splitlines()
    assert trained.count(f"{trial.trial_key} 2") == 1
    assert len(values(sweep_of(home))) == 8


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk of its own needs unshare")
def test_a_full_disk_makes_trials_wait_and_costs_no_epoch(tmp_path: Path):
    home = tmp_path / "home"
    kept = tmp_path / "kept"
    home.mkdir()
    small_disk = f'mount -t tmpfs -o size=48m none {home} && "$@"; code=$?; cp -r {home} {kept}; exit $code'
    within = ["unshare", "-rm", "sh", "-c", small_disk, "sh"]
    space = walk_space(111, 2, min_free_disk_gb=0.02)
    seen = run_driver(home, space, **WALK, within=within)
    assert seen["exit_code"] == 0
    said = messages(seen)
    assert any("trials wait for space" in text for text in said)
    assert any("the sweep continues" in text for text in said)
    trial = trial_of(kept, 111)
    assert (trial.status, trial.attempts) == ("finished", 2)
    assert [failure[1] for failure in trial.failures] == ["disk_full"]
    trained = (kept / "store" / "epochs.txt").read_text().splitlines()
    assert [trained.count(f"{trial.trial_key} {epoch}") for epoch in (1, 2, 3, 4)] == [1, 1, 2, 1]


def test_ctrl_c_twice_ends_at_once_and_loses_nothing(tmp_path: Path, clean):
    home = tmp_path / "home"
    driver = start_driver(home, walk_space(1, 2, 3), **WALK)
    assert wait_for(lambda: (home / "store" / "epochs.txt").exists(), 120)
    pids = descendants(driver.pid)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=30)
    assert wait_for(lambda: not alive(pids), 30)
    assert run_driver(home, walk_space(1, 2, 3), **WALK, resumes=True)["exit_code"] == 0
    assert_equal_to(clean, sweep_of(home))


def test_a_node_that_dies_is_replaced_and_the_sweep_goes_on(tmp_path: Path, clean):
    home = tmp_path / "home"
    seen = run_driver(home, walk_space(106, 1, 2, 3), **WALK)
    assert seen["exit_code"] == 0
    assert any(text.startswith("Ray broke down") for text in messages(seen))
    state = sweep_of(home)
    struck = trial_of(home, 106)
    assert (struck.status, [epoch for _, epoch, _ in struck.history]) == ("finished", [1, 2, 3, 4])
    assert struck.failures[-1][1] == "node_died"  # before it, Tune may have seen its process die
    del state.trials[struck.trial_key]
    assert_equal_to(clean, state)


@pytest.mark.faults
def test_what_was_not_placed_on_a_machine_that_kills_is_left_for_a_resume(tmp_path: Path):
    home = tmp_path / "home"
    space = walk_space(107, 1, 2, max_crashes_in_a_row=2)
    seen = run_driver(home, space, **WALK)
    assert seen["exit_code"] == 3
    cut = sweep_of(home)
    assert [trial.name for trial in cut.trials.values()] == ["frozen encoder", "rank=107"]
    assert not cut.is_complete
    assert any("died in a row, so the cause is probably the machine" in text for text in messages(seen))
    assert run_driver(home, space, **WALK, resumes=True)["exit_code"] == 3
    whole = sweep_of(home)
    assert whole.is_complete
    assert [trial.status for trial in whole.trials.values()] == ["finished", "failed", "finished", "finished"]


@pytest.mark.faults
def test_a_machine_without_memory_fails_its_trials_and_not_the_sweep(tmp_path: Path):
    home = tmp_path / "home"
    variables = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "200"}
    seen = run_driver(home, walk_space(1, 2, max_retries=0), **WALK, variables=variables)
    assert seen["exit_code"] == 3
    trials = sweep_of(home).trials.values()
    assert {trial.cause for trial in trials} == {"killed_for_memory"}
