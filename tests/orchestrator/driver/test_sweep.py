"""Real sweeps on a real Ray, of toys, each driver in a process of its own."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from sweep_process import HERE, SMALL, alive, cmdline, run_driver, space_of, start_driver, wait_for

from orchestrator.driver import sweep
from orchestrator.driver.sweep import SweepOptions, run_sweep
from orchestrator.search.space_file import read_space
from orchestrator.storage.ledger import read_ledger
from trainables.errors import ClusterError, ConfigError

OBJECTIVE = "val/probe_joint/macro_auroc"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory):
    """One sweep in which some trials end well and the others in every way that a trial can fail."""
    home = tmp_path_factory.mktemp("mixed") / "home"
    seen = run_driver(home, space_of(4, 101, 102, 103, 104, 105, 106, 8), name="mixed")
    return home, seen, read_ledger(home / "sweeps" / "mixed")


@pytest.mark.ray
class TestASweepWithFailures:
    def test_every_trial_stands_in_the_ledger_once(self, mixed):
        home, _, state = mixed
        names = [trial.name for trial in state.trials.values()]
        assert sorted(names) == sorted(["frozen encoder", *(f"rank={r}" for r in (4, 8, *range(101, 107)))])
        attempts = {trial.name: trial.attempts for trial in state.trials.values()}
        assert {name for name, number in attempts.items() if number > 1} == {"rank=104", "rank=105"}
        calls = (home / "store" / "calls.txt").read_text().splitlines()
        assert len(calls) == sum(attempts.values()) == len(names) + 2  # and no other ran twice

    def test_the_baseline_comes_first_and_then_the_default(self, mixed):
        _, seen, state = mixed
        placed = [event[1] for event in seen["events"] if event[0] == "placed"]
        assert placed[:2] == ["frozen encoder", "rank=8"]
        assert next(iter(state.trials.values())).is_baseline

    def test_reports_results_and_metrics_arrive_whole(self, mixed):
        _, _, state = mixed
        trial = next(trial for trial in state.trials.values() if trial.name == "rank=4")
        assert [(attempt, epoch) for attempt, epoch, _ in trial.history] == [(1, 1), (1, 2)]
        assert trial.history[0][2] == {
            "train/epoch": 1.0,
            "train/loss": 1.0,
            OBJECTIVE: pytest.approx(0.054),
        }
        assert trial.metrics == {OBJECTIVE: 0.54, "train/loss": 0.1}  # what was not finite is absent
        assert list(trial.results) == ["results/confusion.json"]
        assert trial.config["lora.rank"] == 4

    def test_each_failure_has_its_cause(self, mixed):
        _, _, state = mixed
        causes = {trial.name: (trial.status, trial.cause) for trial in state.trials.values()}
        assert causes["rank=101"] == ("failed", "user_error")
        assert causes["rank=102"] == ("failed", "non_finite")
        assert causes["rank=103"] == ("failed", "out_of_memory")
        assert causes["rank=104"] == ("failed", "crash")
        assert causes["rank=105"] == ("failed", "process_died")
        assert causes["rank=106"] == ("unavailable", "unavailable")

    def test_a_crash_is_tried_once_more_and_both_causes_are_kept(self, mixed):
        _, _, state = mixed
        failures = {trial.name: [entry[:2] for entry in trial.failures] for trial in state.trials.values()}
        assert failures["rank=104"] == [(1, "crash"), (2, "crash")]
        assert failures["rank=105"] == [(1, "process_died"), (2, "process_died")]
        assert failures["rank=101"] == [(1, "user_error")]

    def test_a_bug_leaves_its_traceback_and_a_short_message(self, mixed):
        home, _, state = mixed
        trial = next(trial for trial in state.trials.values() if trial.name == "rank=104")
        assert trial.message.startswith("KeyError: 'a bug'")
        traceback = home / "sweeps" / "mixed" / "trials" / trial.trial_key / "error.txt"
        assert "toy_trainable.py" in traceback.read_text()

    def test_a_sweep_with_failures_exits_with_3(self, mixed):
        _, seen, state = mixed
        assert seen["exit_code"] == 3
        assert state.finished.exit_code == 3

    def test_the_ledger_says_on_what_the_sweep_stands(self, mixed):
        _, _, state = mixed
        assert read_space(state.started.space).to_dict() == state.started.space
        assert {"torch", "ray", "python"} <= set(state.started.versions)
        assert state.started.objective == OBJECTIVE
        assert state.started.hardware["num_cpus"] >= 1

    def test_one_process_runs_several_trials(self, mixed):
        home, _, _ = mixed
        pids = [line.split()[0] for line in (home / "store" / "calls.txt").read_text().splitlines()]
        assert len(set(pids)) < len(pids) - 2

    def test_nothing_listens_beyond_this_machine(self, mixed):
        _, seen, _ = mixed
        assert seen["num_sockets"] > 0
        assert seen["foreign_sockets"] == []

    def test_nothing_is_left_running(self, mixed):
        _, seen, _ = mixed
        assert len(seen["pids"]) > 3
        assert wait_for(lambda: not alive(seen["pids"]), 10), [cmdline(pid) for pid in alive(seen["pids"])]

    def test_a_name_in_use_is_refused_with_a_free_one(self, mixed, monkeypatch: pytest.MonkeyPatch):
        home, _, state = mixed
        monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(home))
        with pytest.raises(
            ConfigError, match=r"sweep 'mixed' exists already.*--resume mixed.*--name mixed-2"
        ):
            run_sweep(read_space(space_of(4, 8)), SweepOptions(name="mixed"))
        assert read_ledger(home / "sweeps" / "mixed").next_seq == state.next_seq
        assert not (home / "sweeps" / "mixed-2").exists()


def interrupt(tmp_path: Path, number: int) -> tuple[subprocess.Popen, list[int]]:
    """Starts a sweep of endless trials, sends a signal when one runs, and waits for the driver's end."""
    home = tmp_path / "home"
    driver = start_driver(home, space_of(4), name="cut", trainable="toy_trainable:slow")
    assert wait_for((home / "store" / "running.txt").exists, 120), driver.communicate(timeout=1)
    import toy_sweep

    pids = sorted(toy_sweep.descendants(driver.pid))
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)  # a terminal's Ctrl-C reaches every process of its group
    else:
        driver.send_signal(number)
    driver.wait(60)
    return driver, pids


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_sweep_in_order(tmp_path: Path, number: int, exit_code: int, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    driver, pids = interrupt(tmp_path, number)
    out, err = driver.communicate(timeout=60)
    assert err == ""
    assert json.loads(out)["exit_code"] == exit_code
    _, said = next(event for event in json.loads(out)["events"] if "interrupted" in event[1])
    assert said.startswith("interrupted; finished trials are kept. Resume: ")
    assert said.endswith("-m orchestrator sweep --resume cut")
    state = read_ledger(tmp_path / "home" / "sweeps" / "cut")
    assert state.finished.exit_code == exit_code
    assert {trial.status for trial in state.trials.values()} <= {"placed", "running"}
    assert wait_for(lambda: not alive(pids), 15), [cmdline(pid) for pid in alive(pids)]


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_leaves_no_trial_running_and_a_readable_ledger(tmp_path: Path, monkeypatch):
    """Two agents of Ray linger for a minute: they try that long to tell the dead that it died."""
    monkeypatch.syspath_prepend(HERE)
    driver, pids = interrupt(tmp_path, signal.SIGKILL)
    driver.communicate()
    working = [pid for pid in pids if "Agent" not in cmdline(pid)]
    assert wait_for(lambda: not alive(working), 30), [cmdline(pid) for pid in alive(working)]
    state = read_ledger(tmp_path / "home" / "sweeps" / "cut")
    assert state.finished is None
    assert {trial.status for trial in state.trials.values()} <= {"placed", "running"}


@pytest.mark.ray
@pytest.mark.slow
def test_asha_stops_the_weak_and_keeps_their_last_value(tmp_path: Path):
    """Weak trials come after strong ones, so that there is something to be weaker than."""
    search = {"searcher": "grid", "scheduler": "asha", "max_concurrent": 1}
    fixed = SMALL | {"num_epochs": 9}
    seen = run_driver(
        tmp_path / "home", space_of(30, 29, 28, 3, 2, 1, fixed=fixed, search=search), name="asha"
    )
    assert seen["exit_code"] == 0
    assert any("learns slowly" in event[1] for event in seen["events"] if event[0] == "message")
    state = read_ledger(tmp_path / "home" / "sweeps" / "asha")
    stopped = [trial for trial in state.trials.values() if trial.stopped_early]
    assert stopped
    assert all(trial.status == "finished" and len(trial.history) < 9 for trial in stopped)
    assert all(trial.metrics[OBJECTIVE] == trial.history[-1][2][OBJECTIVE] for trial in stopped)
    assert not any(trial.stopped_early for trial in state.trials.values() if trial.is_baseline)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("is_cut_short", [True, False])
def test_half_a_search_opens_no_test_labels(own_home: Path, monkeypatch, is_cut_short: bool):
    opened = []

    def run(executor, _):
        executor.controller.circuit_breaker.is_over = is_cut_short

    monkeypatch.setattr(sweep.Executor, "run", run)
    monkeypatch.setattr(sweep, "evaluate_test", lambda *_: opened.append("opened") or True)
    assert run_sweep(read_space(space_of(1)), SweepOptions(name="half")).exit_code == 3
    assert opened == ([] if is_cut_short else ["opened"])


def test_a_machine_too_small_is_said_before_anything_starts(own_home: Path):
    with pytest.raises(ClusterError, match="--workers 4096"):
        run_sweep(read_space(space_of(4)), SweepOptions(num_workers=4096))
    assert not (own_home / "sweeps").exists()


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory):
    """One sweep of trials of two workers each; in one of them rank 1 fails while rank 0 waits for it."""
    home = tmp_path_factory.mktemp("train") / "home"
    space = space_of(4, 101, search={"searcher": "grid", "max_concurrent": 1})
    seen = run_driver(home, space, name="train", num_workers=2, trainable="toy_trainable:reduced")
    return home, seen, read_ledger(home / "sweeps" / "train")


@pytest.mark.ray
@pytest.mark.slow
class TestATrialOfTwoWorkers:
    def test_both_ranks_take_part_in_a_collective(self, reduced):
        _, _, state = reduced
        trial = next(trial for trial in state.trials.values() if trial.name == "rank=4")
        assert trial.metrics["perf/total"] == 3.0  # rank 0 adds 1, rank 1 adds 2
        assert trial.metrics["perf/num_pids"] == 2.0
        assert trial.metrics[OBJECTIVE] == 0.5  # rank 0's word counts

    def test_a_report_of_all_ranks_is_one_entry(self, reduced):
        _, _, state = reduced
        trial = next(trial for trial in state.trials.values() if trial.name == "rank=4")
        assert [(epoch, metrics["train/loss"]) for _, epoch, metrics in trial.history] == [(1, 3.0)]

    def test_a_failing_rank_ends_the_trial_with_its_own_words(self, reduced):
        _, seen, state = reduced
        trial = next(trial for trial in state.trials.values() if trial.name == "rank=101")
        assert (trial.cause, trial.message) == ("user_error", "rank 1 cannot go on")
        assert seen["exit_code"] == 3

    def test_workers_listen_on_this_machine_alone(self, reduced):
        _, seen, _ = reduced
        assert seen["num_sockets"] > 0
        assert seen["foreign_sockets"] == []

    def test_nothing_is_left_running(self, reduced):
        _, seen, _ = reduced
        assert wait_for(lambda: not alive(seen["pids"]), 10), [cmdline(pid) for pid in alive(seen["pids"])]
