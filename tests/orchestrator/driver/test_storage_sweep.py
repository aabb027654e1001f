"""Real sweeps whose storage is a real S3 interface on 127.0.0.1: other homes, other nodes, outages."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from node_processes import Nodes
from s3_server import ENVIRONMENT, S3Server
from sweep_process import run_driver, start_driver, wait_for
from walk_sweep import WALK, sweep_of, walk_space

from orchestrator.storage.ledger import SweepState
from orchestrator.storage.mirror import compare, fetch_sweep
from orchestrator.storage.store import Storage, open_storage
from trainables.artifacts import file_sha256
from trainables.errors import ClusterError

NUM_EPOCHS = 60
SPACE = walk_space(1, num_epochs=NUM_EPOCHS)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = S3Server(tmp_path_factory.mktemp("s3") / "log")
        yield server
        server.end()


def assert_walked(state: SweepState) -> None:
    """Every epoch stands in the ledger once, with the value of a walk that was never interrupted."""
    trial = next(trial for trial in state.trials.values() if not trial.is_baseline)
    assert trial.status == "finished"
    assert [epoch for _, epoch, _ in trial.history] == list(range(1, NUM_EPOCHS + 1))
    place = 0.0
    for epoch, (_, _, metrics) in enumerate(trial.history, start=1):
        random_numbers = torch.Generator().manual_seed(1000 + epoch)
        place += float(torch.randn(1, generator=random_numbers))
        assert metrics["train/loss"] == pytest.approx(place, abs=1e-5)


def messages(seen: dict) -> list[str]:
    return [event[1] for event in seen["events"] if event[0] == "message"]


def ledger_in(storage: Storage) -> bytes:
    names = storage.names("sweeps/walk/ledger")
    return b"".join(storage.get_bytes(f"sweeps/walk/ledger/{name}") for name in names)


def has_checkpoints(storage: Storage, num: int) -> bool:
    return any(
        len(storage.names(f"sweeps/walk/trials/{key}/checkpoints")) >= num
        for key in storage.names("sweeps/walk/trials")
    )


@pytest.mark.slow
def test_a_killed_sweep_goes_on_from_another_folder_and_an_empty_home(s3: S3Server, tmp_path: Path):
    storage = open_storage(s3.uri("killed"))
    home, other = tmp_path / "one" / "home", tmp_path / "two" / "home"
    home.parent.mkdir()
    other.parent.mkdir()  # also where the second driver works
    driver = start_driver(home, SPACE, **WALK, storage=storage.uri)
    assert wait_for(lambda: has_checkpoints(storage, 2) and ledger_in(storage), 120)
    with pytest.raises(ClusterError, match=f"'walk' in .* is being run by process {driver.pid} on "):
        fetch_sweep(storage, other / "sweeps" / "walk")  # as a second driver would
    assert wait_for(lambda: b"trial_reported" in ledger_in(storage), 60)
    driver.kill()
    driver.communicate()
    shutil.rmtree(home)  # the machine is lost
    seen = run_driver(other, {}, **WALK, resumes=True, storage=storage.uri)
    assert seen["exit_code"] == 0
    assert_walked(sweep_of(other))
    assert compare(storage, other / "sweeps" / "walk") == "equal"
    assert storage.names("sweeps/walk") == ["ledger", "trials"]
    trained = (other / "store" / "epochs.txt").read_text().splitlines()
    assert 0 < len(trained) < NUM_EPOCHS  # it did not start over
    everything = b"".join(path.read_bytes() for path in other.rglob("*") if path.is_file())
    assert b"nobody-may-see" not in everything


@pytest.mark.faults
def test_a_storage_that_goes_away_costs_nothing_but_time(s3: S3Server, tmp_path: Path):
    storage = open_storage(s3.uri("away"))
    home = tmp_path / "home"
    driver = start_driver(home, SPACE, **WALK, storage=storage.uri)
    assert wait_for(lambda: has_checkpoints(storage, 1), 120)
    with s3.away():
        time.sleep(15)
    out, err = driver.communicate(timeout=300)
    assert (driver.returncode, err) == (0, "")
    seen = json.loads(out)
    assert seen["exit_code"] == 0
    assert sum("continues on this machine and is copied later" in text for text in messages(seen)) <= 1
    assert_walked(sweep_of(home))
    assert compare(storage, home / "sweeps" / "walk") == "equal"
    trials = sweep_of(home).trials
    assert all(not storage.names(f"sweeps/walk/trials/{key}/checkpoints") for key in trials)


@pytest.mark.faults
@pytest.mark.slow
def test_a_trial_moves_to_another_node_with_its_checkpoint_and_its_results_come_home(
    s3: S3Server, tmp_path: Path
):
    storage = open_storage(s3.uri("nodes"))
    home, first, second = (tmp_path / name for name in ("home", "first", "second"))
    nodes = Nodes(tmp_path)
    try:
        nodes.tell("add", first)
        options = WALK | {"storage": storage.uri, "address": nodes.address}
        driver = start_driver(home, SPACE, variables=nodes.variables, **options)
        assert wait_for(lambda: has_checkpoints(storage, 2), 120), driver.communicate()
        nodes.tell("add", second)
        nodes.tell("kill", first)
        out, err = driver.communicate(timeout=240)
    finally:
        nodes.end()
    assert (driver.returncode, err) == (0, "")
    assert json.loads(out)["exit_code"] == 0
    state = sweep_of(home)
    assert_walked(state)
    moved = next(trial for trial in state.trials.values() if trial.failures)
    trained = [(place / "store" / "epochs.txt").read_text().splitlines() for place in (first, second)]
    assert f"{moved.trial_key} 1" in trained[0]
    assert f"{moved.trial_key} 1" not in trained[1]  # it went on from its checkpoint
    assert not (home / "store" / "epochs.txt").exists()
    for trial in state.trials.values():
        for name, sha256 in trial.results.items():
            assert file_sha256(home / "sweeps" / "walk" / trial.workdir / name) == sha256
    assert any(trial.results for trial in state.trials.values())


@pytest.mark.faults
@pytest.mark.slow
def test_a_node_that_cannot_take_part_is_named_before_anything_starts(tmp_path: Path):
    home, shared = tmp_path / "home", tmp_path / "shared"
    shared.mkdir()
    nodes = Nodes(tmp_path)
    try:
        nodes.tell("add", Path("/proc/no-home-can-be-here"))
        options = WALK | {"storage": str(shared), "address": nodes.address}
        driver = start_driver(home, SPACE, variables=nodes.variables, **options)
        _, err = driver.communicate(timeout=240)
    finally:
        nodes.end()
    assert driver.returncode == 1
    assert "cannot be used by 1 of 2 nodes; nothing was started. node " in err
    assert "home folder /proc/no-home-can-be-here: is not writable" in err
    assert list((home / "sweeps").iterdir()) == []
    assert open_storage(str(shared)).names("sweeps/walk") == []
