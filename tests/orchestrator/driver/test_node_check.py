"""Sweeps on several nodes: trials across them, nodes that die under them, and what is left behind."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from ray_nodes import LEAVING, Nodes, kill, running_nodes
from sweep_process import SMALL, run_driver, space_of, start_driver, wait_for
from toy_sweep import descendants

from orchestrator.results.status import read_status
from orchestrator.storage.ledger import SweepState, TrialState, read_ledger

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ON_CPUS = SMALL | {"execution.device": "cpu", "num_epochs": 60}
ONE = {"searcher": "grid", "max_concurrent": 1}


@pytest.fixture(scope="module")
def nodes():
    """Four nodes of one core: a trial of two workers never fits into one of them."""
    before = set(os.listdir("/dev/shm"))
    with running_nodes() as found:
        for _ in range(4):
            found.add(num_cpus=1)
        assert len(found.state()["nodes"]) == 4
        yield found
    assert wait_for(lambda: set(os.listdir("/dev/shm")) <= before, 10), set(os.listdir("/dev/shm")) - before


def variables(nodes: Nodes) -> dict[str, str]:
    names = ("RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    return {name: nodes.head.environment[name] for name in names}


def trial_of(state: SweepState, rank: int) -> TrialState:
    return next(trial for trial in state.trials.values() if trial.name == f"rank={rank}")


def assert_undisturbed(trial: TrialState, num_epochs: int = 60) -> None:
    """It walked as one that was left alone; see `toy_trainable.walk`."""
    assert (trial.status, [epoch for _, epoch, _ in trial.history]) == (
        "finished",
        [*range(1, num_epochs + 1)],
    )
    place = 0.0
    for _, epoch, metrics in trial.history:
        random_numbers = torch.Generator().manual_seed(1000 * trial.config["lora.rank"] + epoch)
        place += float(torch.randn(1, generator=random_numbers))
        assert metrics["train/loss"] == pytest.approx(place, abs=1e-4)


def assert_left_clean(nodes: Nodes) -> None:
    """The other job of the tests is the only one that may have left something, for a moment."""
    kinds = ("places", "groups", "actors")
    assert wait_for(lambda: not any(nodes.state()[kind] for kind in kinds), 15), nodes.state()


def lose_a_node(home: Path, nodes: Nodes, name: str, rank: int, num_workers: int = 2) -> dict:
    """Runs a sweep of one trial, a worker a node, and kills the last worker's node in the middle of it."""
    options = {
        "name": name,
        "num_workers": num_workers,
        "trainable": "toy_trainable:walk",
        "address": nodes.head.address,
    }
    driver = start_driver(
        home, space_of(rank, fixed=ON_CPUS, search=ONE), **options, variables=variables(nodes)
    )
    epochs = home / "store" / "epochs.txt"
    assert wait_for(lambda: epochs.exists() and len(epochs.read_text().splitlines()) > 3, 150)
    pid = int((home / "store" / "last_rank.pid").read_text())
    kill(next(node for node in nodes.processes if pid in descendants(node.pid)))
    out, err = driver.communicate(timeout=300)
    assert (driver.returncode, err) == (0, "")
    return json.loads(out)


def test_trials_of_two_workers_span_nodes_and_leave_nothing(tmp_path: Path, nodes: Nodes):
    fixed = ON_CPUS | {"num_epochs": 2}
    seen = run_driver(
        tmp_path / "home",
        space_of(4, 8, fixed=fixed, search={"searcher": "grid"}),
        name="pair",
        num_workers=2,
        trainable="toy_trainable:reduced",
        address=nodes.head.address,
        variables=variables(nodes),
    )
    assert seen["exit_code"] == 0
    state = read_ledger(tmp_path / "home" / "sweeps" / "pair")
    for rank in (4, 8):
        trial = trial_of(state, rank)
        assert (trial.metrics["perf/total"], trial.metrics["perf/num_pids"]) == (3.0, 2.0)
    assert_left_clean(nodes)


@pytest.mark.faults
@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.faults), 2])
def test_a_trial_whose_node_dies_goes_on_elsewhere_and_uses_up_no_retry(
    tmp_path: Path, nodes: Nodes, num_workers: int
):
    seen = lose_a_node(tmp_path / "home", nodes, "lost", 7, num_workers)
    assert seen["exit_code"] == 0
    trial = trial_of(read_ledger(tmp_path / "home" / "sweeps" / "lost"), 7)
    assert [cause for _, cause, _ in trial.failures] == ["node_died"]
    assert_undisturbed(trial)
    epochs = (tmp_path / "home" / "store" / "epochs.txt").read_text().splitlines()
    assert len(epochs) <= len(set(epochs)) + 1  # no more than the epoch that was cut off
    assert not any(
        "connecting to the cluster again" in event[1] for event in seen["events"] if event[0] == "message"
    )
    assert_left_clean(nodes)


@pytest.mark.faults
def test_where_two_workers_have_no_room_any_more_one_goes_on(tmp_path: Path, nodes: Nodes):
    for spare in [node for node in nodes.processes if node.poll() is None][2:]:
        kill(spare)
    assert wait_for(lambda: len(nodes.state()["nodes"]) == 2, 60)
    seen = lose_a_node(tmp_path / "home", nodes, "less", 9)
    assert seen["exit_code"] == 0
    trial = trial_of(read_ledger(tmp_path / "home" / "sweeps" / "less"), 9)
    assert {cause for _, cause, _ in trial.failures} == {"node_died"}
    assert_undisturbed(trial)
    said = " ".join(event[1] for event in seen["events"] if event[0] == "message")
    assert "waits for a node: a trial takes 2 workers of 1 CPU core" in said
    assert "the cluster has no room for 2 workers any more: trials continue with 1" in said
    assert_left_clean(nodes)


@pytest.mark.faults
def test_a_trial_that_waits_says_for_what(tmp_path: Path, nodes: Nodes):
    """GPUs by name alone: nothing here touches one."""
    home, fixed = tmp_path / "home", SMALL | {"num_epochs": 2}
    nodes.add(num_cpus=2, num_gpus=2)
    with nodes.held(2) as other:
        options = {"name": "waits", "trainable": "toy_trainable:walk", "address": nodes.head.address}
        space = space_of(4, fixed=fixed, search={"searcher": "grid"})
        driver = start_driver(home, space, **options, variables=variables(nodes))
        folder, found = home / "sweeps" / "waits", []

        def waits() -> bool:
            if (folder / "waiting.json").exists():
                found.extend(trial for trial in read_status(folder).trials if trial.progress == "waiting")
            return bool(found)

        assert wait_for(waits, 90)
        assert found[0].reason == "waits for 1 GPU: 0 of 2 free"
        other.stdin.close()
        other.stdin = None
        other.wait(60)
        out, err = driver.communicate(timeout=120)
    assert (driver.returncode, err) == (0, "")
    seen = json.loads(out)
    assert seen["exit_code"] == 0
    assert ["waiting", ["waits for 1 GPU: 0 of 2 free"]] in seen["events"]
    assert_left_clean(nodes)


@pytest.mark.faults
def test_a_node_that_is_taken_back_takes_nothing_new_and_counts_as_lost(nodes: Nodes):
    """Comes last: a drain cannot be undone. The node is busy, or it would be gone at once."""
    before = set(nodes.state()["nodes"])
    nodes.add(num_cpus=1, num_gpus=4)
    (node,) = set(nodes.state()["nodes"]) - before
    why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
    drain = ("--node-id", node, *why, "--deadline-remaining-seconds", "300")
    with nodes.held(4):
        command = ("ray", "drain-node", "--address", nodes.head.address, *drain)
        done = nodes.head.run(*command, variables={"RAY_AUTH_MODE": "token"})
        assert done.returncode == 0, done.stderr
        found = json.loads(nodes.head.run(sys.executable, "-c", LEAVING, nodes.head.address, node).stdout)
    assert found == {"leaving": [node], "lost": [node]}
