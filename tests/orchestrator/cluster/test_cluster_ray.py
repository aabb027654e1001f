"""A driver that joins a real cluster, of a head on 127.0.0.1."""

import json
import os
import signal
from pathlib import Path

import pytest
from ray_head import Head, running_head
from sweep_process import SMALL, alive, cmdline, run_driver, space_of, start_driver, wait_for
from toy_sweep import descendants

from orchestrator.cluster.cluster_ray import code, environment
from orchestrator.storage.ledger import read_ledger

LONG = SMALL | {"num_epochs": 60}


def test_trials_get_the_code_of_the_driver_unless_a_job_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert [Path(path).name for path in code()["py_modules"]] == ["orchestrator", "trainables"]
    job = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123.zip"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert code() == {}


def test_no_secret_of_the_driver_reaches_the_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in environment(spans_nodes=True).values()
    assert "GLOO_SOCKET_IFNAME" not in environment(spans_nodes=True)
    assert environment(spans_nodes=False)["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.fixture(scope="module")
def head():
    with running_head() as found:
        yield found


def variables(head: Head) -> dict[str, str]:
    return {
        name: head.environment[name] for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    }


@pytest.mark.ray
@pytest.mark.slow
def test_a_connected_sweep_is_whole_and_the_cluster_stays_as_it_was(tmp_path: Path, head: Head):
    home = tmp_path / "home"
    before = descendants(head.process.pid)
    space = space_of(4, 105, 101)
    seen = run_driver(home, space, name="joined", address=head.address, variables=variables(head))
    assert seen["exit_code"] == 3  # two of its trials fail, each for its own reason
    state = read_ledger(home / "sweeps" / "joined")
    ended = {trial.name: (trial.status, trial.cause) for trial in state.trials.values()}
    assert ended == {
        "frozen encoder": ("finished", None),
        "rank=4": ("finished", None),
        "rank=105": ("failed", "process_died"),
        "rank=101": ("failed", "user_error"),
    }
    trial = next(trial for trial in state.trials.values() if trial.name == "rank=4")
    assert [(attempt, epoch) for attempt, epoch, _ in trial.history] == [(1, 1), (1, 2)]
    assert list(trial.results) == ["results/confusion.json"]
    assert seen["foreign_sockets"] == []
    assert not (home / "sweeps" / "joined" / "scratch").exists()
    assert before <= descendants(head.process.pid)  # nothing of the cluster was ended
    assert head.process.poll() is None


@pytest.mark.ray
@pytest.mark.faults
def test_a_trial_of_two_workers_runs_on_a_cluster(tmp_path: Path, head: Head):
    search = {"searcher": "grid", "max_concurrent": 1}
    seen = run_driver(
        tmp_path / "home",
        space_of(4, search=search),
        name="pair",
        num_workers=2,
        trainable="toy_trainable:reduced",
        address=head.address,
        variables=variables(head),
    )
    assert seen["exit_code"] == 0
    state = read_ledger(tmp_path / "home" / "sweeps" / "pair")
    trial = next(trial for trial in state.trials.values() if trial.name == "rank=4")
    assert (trial.metrics["perf/total"], trial.metrics["perf/num_pids"]) == (3.0, 2.0)


@pytest.mark.ray
@pytest.mark.faults
def test_a_lost_cluster_is_said_and_the_sweep_goes_on_elsewhere(tmp_path: Path, head: Head):
    """Comes last: nothing is left of the head."""
    home, space = tmp_path / "home", space_of(4, fixed=LONG)
    walk = {"name": "lost", "trainable": "toy_trainable:walk"}
    driver = start_driver(home, space, **walk, address=head.address, variables=variables(head))
    assert wait_for((home / "store" / "epochs.txt").exists, 120), driver.communicate(timeout=1)
    os.killpg(head.process.pid, signal.SIGKILL)
    out, err = driver.communicate(timeout=120)
    assert err == ""
    seen = json.loads(out)
    assert seen["exit_code"] == 3
    said = " ".join(event[1] for event in seen["events"] if event[0] == "message")
    assert f"the connection to the cluster at {head.address} has been lost for" in said
    assert "python -m orchestrator sweep --resume lost" in said
    assert wait_for(lambda: not alive(seen["pids"]), 30), [cmdline(pid) for pid in alive(seen["pids"])]

    assert run_driver(home, space, **walk, resumes=True)["exit_code"] == 0  # on a Ray of its own
    trial = next(t for t in read_ledger(home / "sweeps" / "lost").trials.values() if t.name == "rank=4")
    assert trial.failures[0][1] == "node_died"
    assert [epoch for _, epoch, _ in trial.history] == list(range(1, 61))
