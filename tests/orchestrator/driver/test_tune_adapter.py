"""What Tune is told, without a Ray that runs."""

import json
import pickle
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.cluster.local_ray import load_ray
from orchestrator.search.space_file import read_space
from orchestrator.storage.ledger import SweepState, TrialState

load_ray()

from ray.tune.search import Searcher  # noqa: E402

from orchestrator.cluster.ray_watchdog import NoRoom  # noqa: E402
from orchestrator.driver.trial_schedulers import early_stopping_note, open_scheduler, remind  # noqa: E402
from orchestrator.driver.tune_adapter import (  # noqa: E402
    Bridge,
    BridgeCallback,
    BridgeSearcher,
    BridgeStopper,
)


@dataclass
class Trial:
    trial_id: str
    last_result: dict = field(default_factory=dict)
    error_file: str | None = None


class Controller:
    """Notes what it is told; breaks when asked to."""

    def __init__(self, *, is_broken: bool = False):
        self.is_broken, self.told = is_broken, []
        self.circuit_breaker = types.SimpleNamespace(note_crash=lambda: self.told.append(("note_crash",)))
        self.folder, self.is_waiting = Path("/none"), False

    def waits_for_space(self):
        return self.is_waiting

    def next_trial(self, template):
        return None

    def __getattr__(self, name: str):
        def note(*arguments, **named):
            if self.is_broken:
                raise OSError(28, "No space left on device")
            self.told.append((name, *arguments))

        return note


@pytest.fixture
def bridge() -> Bridge:
    bridge = Bridge(Controller(), None)
    bridge.open_trials["tune-1"] = "key-1"
    return bridge


def test_reports_and_records_reach_the_controller(bridge: Bridge):
    callback, trial = BridgeCallback(bridge), Trial("tune-1")
    callback.on_trial_result(1, [], trial, {"epoch": 2, "metrics": json.dumps({"train/loss": 1.0})})
    record = {"seconds": 1.0, "metrics": {}, "results": {}, "cause": None, "message": None}
    callback.on_trial_result(2, [], trial, {"record": json.dumps(record)})
    callback.on_trial_complete(3, [], trial)  # Tune says so after the record too: nothing is left to tell
    told = bridge.controller.told
    assert told[0] == ("reported", "key-1", 2, {"train/loss": 1.0})
    assert (told[1][:2], told[1][2].seconds) == (("ended", "key-1"), 1.0)
    assert len(told) == 2


def test_a_trial_that_completes_without_a_record_was_stopped(bridge: Bridge):
    BridgeCallback(bridge).on_trial_complete(1, [], Trial("tune-1", {"time_total_s": 3.0}))
    assert bridge.controller.told == [("stopped_early", "key-1")]


def test_a_process_that_died_is_known_as_one(bridge: Bridge):
    BridgeCallback(bridge).on_trial_error(1, [], Trial("tune-1"))
    ((name, key, cause, message),) = bridge.controller.told
    assert (name, key, cause) == ("died", "key-1", "process_died")
    assert "process died" in message


def test_a_process_that_ended_itself_has_said_why(bridge: Bridge, tmp_path: Path):
    bridge.controller.folder = tmp_path
    (tmp_path / "trials" / "key-1").mkdir(parents=True)
    (tmp_path / "trials" / "key-1" / "failure-0.json").write_text('["crash", "CUDA error"]')
    BridgeCallback(bridge).on_trial_error(1, [], Trial("tune-1"))
    assert bridge.controller.told == [("failed", "key-1", "crash", "CUDA error")]


@pytest.fixture
def on_nodes(bridge: Bridge, tmp_path: Path) -> Bridge:
    """A trial whose second attempt stood on a node bb that is lost."""
    bridge.controller.folder = tmp_path
    bridge.controller.state = SweepState("s")
    bridge.controller.state.trials["key-1"] = TrialState("key-1", "arm", "name", {}, attempts=2)
    bridge.find_lost = lambda key, attempt: {"bb"} if (key, attempt) == ("key-1", 2) else set()
    return bridge


@pytest.mark.parametrize("cause", ["process_died", "crash"])
def test_what_the_other_workers_make_of_a_lost_node_is_not_the_trials_fault(on_nodes: Bridge, cause: str):
    record = {"seconds": 1.0, "cause": cause, "message": "connection closed by peer"}
    BridgeCallback(on_nodes).on_trial_result(1, [], Trial("tune-1"), {"record": json.dumps(record)})
    assert on_nodes.controller.told == [("lost_node", "key-1", {"bb"})]


def test_what_a_trial_says_of_itself_stands_though_its_node_is_lost(on_nodes: Bridge):
    record = {"seconds": 1.0, "cause": "non_finite", "message": "loss is nan"}
    BridgeCallback(on_nodes).on_trial_result(1, [], Trial("tune-1"), {"record": json.dumps(record)})
    assert on_nodes.controller.told[0][:2] == ("ended", "key-1")


def test_a_process_that_went_with_its_node_is_known_as_one(on_nodes: Bridge, tmp_path: Path):
    BridgeCallback(on_nodes).on_trial_error(1, [], Trial("tune-1"))
    assert on_nodes.controller.told == [("lost_node", "key-1", {"bb"})]
    on_nodes.open_trials["tune-2"] = "key-1"
    (tmp_path / "error.txt").write_text("The actor died because its node has died. Node Id: bb")
    on_nodes.find_lost = lambda *_: set()  # the head has not noticed yet
    BridgeCallback(on_nodes).on_trial_error(1, [], Trial("tune-2", error_file=str(tmp_path / "error.txt")))
    assert on_nodes.controller.told[1] == ("lost_node", "key-1", set())


def test_trials_that_can_have_no_place_are_no_death(bridge: Bridge):
    bridge.broke_down(NoRoom("waits for a node: it takes 2 GPUs"))
    assert bridge.controller.told == [
        ("say", "waits for a node: it takes 2 GPUs"),
        ("failed", "key-1", "node_died", "waits for a node: it takes 2 GPUs"),
    ]


def test_what_dies_after_the_user_ended_the_sweep_stays_open(bridge: Bridge):
    bridge.is_stopping = lambda: True
    bridge.broke_down(RuntimeError("the raylet got the same signal"))
    assert bridge.open_trials == {"tune-1": "key-1"}
    BridgeCallback(bridge).on_trial_error(1, [], Trial("tune-1"))
    assert bridge.controller.told == []


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("A worker died", "node_died"),
        ("1 worker(s) were killed due to the node running low on memory", "killed_for_memory"),
    ],
)
def test_trials_of_a_tune_that_broke_down_have_failed_by_the_machines_fault(
    bridge: Bridge, said: str, cause: str
):
    bridge.open_trials["tune-2"] = "key-2"
    bridge.broke_down(RuntimeError(f"{said}\nand much more"))
    assert bridge.open_trials == {}
    assert bridge.problem is None
    failed = [told for told in bridge.controller.told if told[0] == "failed"]
    assert bridge.controller.told.count(("note_crash",)) == 1  # a node died, not one process a trial
    assert sorted(failed) == [("failed", key, cause, f"Ray broke down: {said}") for key in ("key-1", "key-2")]


def test_while_trials_wait_for_space_the_sweep_does_not_end(bridge: Bridge):
    bridge.open_trials.clear()
    assert BridgeSearcher(bridge).suggest("tune-2") == Searcher.FINISHED
    bridge.controller.is_waiting = True
    assert BridgeSearcher(bridge).suggest("tune-3") is None


def test_a_broken_ledger_stops_all_and_raises_nothing_into_tune(bridge: Bridge):
    stopper = BridgeStopper(bridge)
    assert not stopper.stop_all()
    bridge.controller.is_broken = True
    BridgeCallback(bridge).on_trial_result(1, [], Trial("tune-1"), {"epoch": 1, "metrics": "{}"})
    assert isinstance(bridge.problem, OSError)
    assert stopper.stop_all()
    assert BridgeSearcher(bridge).suggest("tune-2") == Searcher.FINISHED


def test_what_tune_pickles_holds_nothing_of_the_sweep(bridge: Bridge):
    assert len(pickle.dumps(BridgeCallback(bridge))) < 1000


def space_of(scheduler: str, num_trials: int, num_epochs: int):
    search = {"scheduler": scheduler, "num_trials": num_trials}
    parameters = {"optim.learning_rate": {"float": [1e-3, 3e-3], "log": True}}
    return read_space(
        {"name": "s", "fixed": {"num_epochs": num_epochs}, "parameters": parameters, "search": search}
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("asha", "AsyncHyperBand"), ("median", "Median"), ("none", "FIFO")]
)
def test_the_scheduler_is_the_one_that_was_chosen(kind: str, name: str):
    assert any(name in base.__name__ for base in type(open_scheduler(space_of(kind, 9, 9))).__mro__)


@pytest.mark.parametrize(
    ("kind", "num_trials", "num_epochs", "words"),
    [
        ("none", 4, 2, None),
        ("asha", 20, 10, None),
        ("asha", 4, 10, "4 trials are too few to compare well"),
        ("median", 20, 2, "end before they can be compared"),
    ],
)
def test_it_is_said_where_stopping_early_cannot_pay(kind, num_trials, num_epochs, words):
    sentence = early_stopping_note(space_of(kind, num_trials, num_epochs))
    assert (sentence is None) if words is None else (words in sentence)


@dataclass(frozen=True)
class NewTrial:
    trial_id: str = "new"


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize(
    ("is_reminded", "confirms", "decision"),
    [(True, False, "STOP"), (False, False, "CONTINUE"), (True, True, "CONTINUE")],
)
def test_a_scheduler_of_a_resumed_sweep_knows_what_finished_trials_scored(
    kind, is_reminded, confirms, decision
):
    space = space_of(kind, 9, 9)
    history = [(1, epoch, {space.objective: 0.9}) for epoch in range(1, 10)]
    state = SweepState("s")
    for key in "abcd":
        state.trials[key] = TrialState(
            key, key, key, {}, confirms=confirms, status="finished", history=history
        )
    state.trials["cut"] = TrialState("cut", "cut", "cut", {}, status="running", history=history)
    scheduler = open_scheduler(space)
    if is_reminded:
        remind(scheduler, state, space.objective)
    controller = types.SimpleNamespace(get_live_trials=list)
    scheduler.on_trial_add(controller, NewTrial())
    assert scheduler.on_trial_result(controller, NewTrial(), {"epoch": 1, "score": 0.1}) == decision


def test_stop_ends_trials_at_their_report_and_leaves_them_open_in_the_ledger():
    is_stopping = False
    bridge = Bridge(Controller(), None, lambda: is_stopping)
    bridge.open_trials["tune-1"] = "key-1"
    stopper = BridgeStopper(bridge)
    assert not stopper("tune-1", {"epoch": 1})
    assert BridgeSearcher(bridge).suggest("tune-2") is None  # the one that runs may crash and need the place
    is_stopping = True
    assert stopper("tune-1", {"epoch": 1})
    assert not stopper("tune-1", {"record": "{}"})
    BridgeCallback(bridge).on_trial_complete(1, [], Trial("tune-1"))
    assert (bridge.controller.told, bridge.open_trials) == ([], {})
    assert BridgeSearcher(bridge).suggest("tune-2") == Searcher.FINISHED
