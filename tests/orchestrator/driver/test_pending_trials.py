"""What is told of trials that wait on a cluster; the real head answers in `test_nodes`."""

import json
import types
from pathlib import Path

import pytest

from orchestrator.cluster.placement import Need, Room
from orchestrator.cluster.resources import Machine
from orchestrator.driver import pending_trials
from orchestrator.driver.pending_trials import PendingTrials

SMALL = Room("a", {"CPU": 1}, {"CPU": 0})
LARGE = Room("b", {"CPU": 4}, {"CPU": 1})


class Controller:
    def __init__(self, folder: Path):
        self.folder, self.told = folder, []
        trial = types.SimpleNamespace(attempts=1)
        self.state = types.SimpleNamespace(trials={"key-1": trial, "key-2": trial})

    def waiting(self, reasons: dict[str, str]) -> None:
        self.told.append(reasons)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What it answers."""
    found = types.SimpleNamespace(num_unplaced=0, rooms=[LARGE], coming=())
    places = {"key-1": {"a"}, "key-2": set()}  # the first one runs
    monkeypatch.setattr(pending_trials, "places_of", lambda address, job, key, attempt: places[key])
    monkeypatch.setattr(pending_trials, "num_unplaced", lambda *_: found.num_unplaced)
    monkeypatch.setattr(pending_trials, "rooms", lambda _: found.rooms)
    monkeypatch.setattr(pending_trials, "still_to_come", lambda *_: found.coming)
    return found


@pytest.fixture
def watch(tmp_path: Path) -> PendingTrials:
    need = Need(2, cpus=1, gpus=0)
    return PendingTrials(Controller(tmp_path), need, lambda: ["key-1", "key-2"], "head:6379", "01000000")


def test_the_trial_that_has_no_place_is_told_why_and_only_once(watch: PendingTrials, head):
    watch.look()
    assert watch.controller.told == []
    head.num_unplaced = 1
    assert [watch.look(), watch.look()] == ["", ""]
    reasons = {"key-2": "waits for 2 CPU cores: 1 of 4 free"}
    assert watch.controller.told == [reasons]
    assert json.loads((watch.controller.folder / "waiting.json").read_text()) == reasons
    head.num_unplaced = 0
    watch.look()
    assert watch.controller.told[1:] == [{}]
    watch.close()
    assert not (watch.controller.folder / "waiting.json").exists()


def test_what_can_never_have_a_place_is_said_once_nothing_runs(watch: PendingTrials, head, monkeypatch):
    monkeypatch.setattr(pending_trials, "STUCK_SECONDS", 0.0)
    head.num_unplaced, head.rooms = 1, [SMALL]
    assert watch.look() == ""  # the other one runs, and may end well
    watch.open_trials = lambda: ["key-2"]
    head.coming = (Machine(1, 0, 4.0),)
    assert watch.look() == ""
    head.coming = ()
    assert watch.look().startswith("waits for a node: a trial takes 2 workers of 1 CPU core")


def test_a_node_that_is_replaced_has_a_moment(watch: PendingTrials, head):
    head.num_unplaced, head.rooms, watch.open_trials = 1, [SMALL], lambda: ["key-2"]
    assert [watch.look(), watch.look()] == ["", ""]
    assert watch.fits_none_since is not None
    head.rooms = [LARGE]
    watch.look()
    assert watch.fits_none_since is None


def test_a_sweep_that_is_to_stop_does_not_wait_for_places(watch: PendingTrials, head):
    head.num_unplaced, watch.open_trials, watch.is_stopping = 1, lambda: ["key-2"], lambda: True
    assert watch.look() == "waits for 2 CPU cores: 1 of 4 free"


def test_a_head_that_does_not_answer_fails_no_sweep(watch: PendingTrials, monkeypatch: pytest.MonkeyPatch):
    def fails(*_):
        raise TimeoutError

    monkeypatch.setattr(pending_trials, "num_unplaced", fails)
    assert watch() == ""
    assert watch.controller.told == []
