"""Sweeps that are killed, stopped and crash, on a real Ray, compared with one that was left alone."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from sweep_process import run_driver, start_driver, wait_for
from toy_sweep import descendants
from walk_sweep import WALK, assert_equal_to, sweep_of, values, walk_space

from orchestrator.storage.driver_lock import ask_to_stop
from orchestrator.storage.events import TrialFinished, TrialPlaced
from orchestrator.storage.ledger import LedgerReader, SweepState

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_killed_three_times_is_the_one_that_was_not(tmp_path: Path, clean: SweepState):
    kill_and_compare(tmp_path / "home", clean, walk_space(1, 2, 3), num_kills=3)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_sweep_killed_twenty_times_is_the_one_that_was_not(tmp_path: Path):
    space = walk_space(*range(1, 9))
    untouched = tmp_path / "untouched"
    assert run_driver(untouched, space, **WALK)["exit_code"] == 0
    kill_and_compare(tmp_path / "home", sweep_of(untouched), space, num_kills=20)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_machine_that_sleeps_wakes_up_in_the_same_sweep(tmp_path: Path, clean: SweepState):
    home = tmp_path / "home"
    driver = start_driver(home, walk_space(1, 2, 3), **WALK)
    assert wait_for(lambda: (home / "store" / "epochs.txt").exists(), 120)
    pids = [driver.pid, *descendants(driver.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(60)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    out, err = driver.communicate(timeout=300)
    assert (driver.returncode, err) == (0, "")
    assert json.loads(out)["exit_code"] == 0
    assert_equal_to(clean, sweep_of(home))


def kill_and_compare(home: Path, clean: SweepState, space: dict, *, num_kills: int) -> None:
    """Kills the driver within that many of its writes, resumes it each time, and finds nothing amiss."""
    random_numbers = random.Random(7)
    num_entries = clean.next_seq
    seqs = sorted(random_numbers.sample(range(2, num_entries - 1), num_kills))
    for number, seq in enumerate(seqs):
        resumes = {"resumes": True} if number else {}
        kill_at = [seq, random_numbers.choice([0, 1, 40])]  # not begun, or torn off
        driver = start_driver(home, space, kill_at=kill_at, **WALK, **resumes)
        driver.communicate(timeout=240)
        assert driver.returncode == -signal.SIGKILL
        state = sweep_of(home)
        assert state.next_seq == seq
        assert state.finished is None
    seen = run_driver(home, space, **WALK, resumes=True)
    assert seen["exit_code"] == 0
    state = sweep_of(home)
    assert_equal_to(clean, state)
    assert sum(trial.attempts - 1 for trial in state.trials.values()) <= num_kills
    finished = [
        entry.event.trial_key
        for entry in LedgerReader(home / "sweeps" / "walk").poll()
        if isinstance(entry.event, TrialFinished)
    ]
    assert sorted(finished) == sorted(clean.trials)  # none finished twice
    trained = (home / "store" / "epochs.txt").read_text().splitlines()
    assert len(trained) <= len(set(trained)) + num_kills  # only what a kill cut off was done again


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_dies_goes_on_from_its_checkpoint_and_not_for_ever(tmp_path: Path):
    home = tmp_path / "home"
    seen = run_driver(home, walk_space(1, 105, 107), **WALK)
    assert seen["exit_code"] == 3
    trials = {trial.name: trial for trial in sweep_of(home).trials.values()}
    died_once, dies = trials["rank=105"], trials["rank=107"]
    assert (died_once.status, died_once.attempts) == ("finished", 2)
    assert [(attempt, epoch) for attempt, epoch, _ in died_once.history] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert [failure[:2] for failure in died_once.failures] == [(1, "process_died")]
    assert (dies.status, dies.attempts) == ("failed", 2)
    trained = (home / "store" / "epochs.txt").read_text().splitlines()
    assert trained.count(f"{died_once.trial_key} 1") == 1  # it did not start again

    seen = run_driver(home, walk_space(), **WALK, resumes=True)
    assert any("nothing is left to do" in event[1] for event in seen["events"] if event[0] == "message")
    before = sweep_of(home)
    seen = run_driver(home, walk_space(), **WALK, resumes=True, retry_failed=True)
    assert [event for event in seen["events"] if event[0] == "placed"] == [["placed", "rank=107"]]
    after = sweep_of(home)
    assert after.trials[dies.trial_key].attempts == 3
    assert values(after) == values(before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stop_lets_epochs_end_and_the_sweep_goes_on_later(tmp_path: Path, clean: SweepState):
    home, folder = tmp_path / "home", tmp_path / "home" / "sweeps" / "walk"
    driver = start_driver(home, walk_space(1, 2, 3), **WALK)
    assert wait_for(lambda: (home / "store" / "epochs.txt").exists(), 120)
    assert ask_to_stop(folder) == driver.pid
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (0, "")
    assert json.loads(out)["exit_code"] == 130
    messages = [event[1] for event in json.loads(out)["events"] if event[0] == "message"]
    assert any(said.startswith("stopped after the running epochs") for said in messages)
    stopped = sweep_of(home)
    begun = (home / "store" / "epochs.txt").read_text().splitlines()
    assert len(values(stopped)) == len(begun)  # no epoch was cut off
    assert run_driver(home, walk_space(1, 2, 3), **WALK, resumes=True)["exit_code"] == 0
    assert_equal_to(clean, sweep_of(home))
    trained = (home / "store" / "epochs.txt").read_text().splitlines()
    assert len(trained) == len(set(trained))  # nothing was done twice


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_extended_sweep_keeps_its_trials_and_adds_the_next(tmp_path: Path):
    home = tmp_path / "home"
    space = walk_space(*range(1, 17), num_epochs=1, searcher="tpe", num_trials=2)
    run_driver(home, space, **WALK)
    before = sweep_of(home)
    run_driver(home, space, **WALK, resumes=True, extend=2)
    after = sweep_of(home)
    assert list(after.trials)[: len(before.trials)] == list(before.trials)
    assert len(after.trials) == len(before.trials) + 2
    assert all(trial.attempts == 1 for trial in after.trials.values())
    whole = tmp_path / "whole" / "home"
    whole.parent.mkdir()
    run_driver(whole, space | {"search": space["search"] | {"num_trials": 4}}, **WALK)
    assert list(sweep_of(whole).trials) == list(after.trials)  # told the same, it proposes the same


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_that_is_killed_while_it_confirms_runs_each_seed_once(tmp_path: Path):
    clean_home, home = tmp_path / "clean" / "home", tmp_path / "cut" / "home"
    space = walk_space(1, 2, 3, num_epochs=2, scheduler="median", seeds=3, num_confirmed=2)
    for folder in (clean_home, home):
        folder.parent.mkdir()
    assert run_driver(clean_home, space, **WALK)["exit_code"] == 0
    clean = sweep_of(clean_home)
    placed = [
        entry.seq
        for entry in LedgerReader(clean_home / "sweeps" / "walk").poll()
        if isinstance(entry.event, TrialPlaced) and entry.event.confirms
    ]
    assert len(placed) == 4
    driver = start_driver(home, space, kill_at=[placed[2] + 1, 0], **WALK)
    driver.communicate(timeout=240)
    assert driver.returncode == -signal.SIGKILL
    assert run_driver(home, space, **WALK, resumes=True)["exit_code"] == 0
    assert_equal_to(clean, sweep_of(home))
    assert not any(trial.stopped_early for trial in clean.trials.values() if trial.confirms)
    seeds = [trial.config["seed"] for trial in clean.trials.values() if trial.confirms]
    assert seeds == [1, 2, 1, 2]
    seen = run_driver(home, space, **WALK, resumes=True)
    assert any("nothing is left to do" in event[1] for event in seen["events"] if event[0] == "message")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_dies_takes_its_trial_back_to_the_checkpoint(tmp_path: Path):
    home = tmp_path / "home"
    seen = run_driver(home, walk_space(105), **WALK, num_workers=2)
    assert seen["exit_code"] == 0
    trial = next(trial for trial in sweep_of(home).trials.values() if not trial.is_baseline)
    assert (trial.status, trial.attempts) == ("finished", 2)
    assert [failure[:2] for failure in trial.failures] == [(1, "process_died")]
    assert [epoch for _, epoch, _ in trial.history] == [1, 2, 3, 4]
    trained = (home / "store" / "epochs.txt").read_text().splitlines()
    assert trained.count(f"{trial.trial_key} 1") == 1
    place = 0.0
    for epoch, (_, _, metrics) in enumerate(trial.history, start=1):
        random_numbers = torch.Generator().manual_seed(1000 * 105 + epoch)
        place += float(torch.randn(1, generator=random_numbers))
        assert metrics["train/loss"] == pytest.approx(place, abs=1e-6)  # the walk of one that never died
