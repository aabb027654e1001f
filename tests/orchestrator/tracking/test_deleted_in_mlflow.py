"""What a person deletes in MLflow stays deleted, and no point of a sweep is missing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_history import by_kind, call, experiment_of, runs_of, wait_until
from mlflow_tree import PARTS, tree, write

from orchestrator.cli.machine_checks import check_mlflow
from orchestrator.storage.ledger import Ledger, read_ledger
from orchestrator.storage.paths import mlflow_uri, sweep_folder
from orchestrator.tracking.mlflow_server import Server, deleted_experiments, links, serve
from orchestrator.tracking.replay import LOG, Replayer, sync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_ORCHESTRATOR_HOME", str(tmp_path_factory.mktemp("deleted") / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = serve(mlflow_uri(), port=23000 + os.getpid() % 20000)
        yield found
        found.stop()


def sweep(name: str, experiment: str) -> Path:
    folder = sweep_folder(name)
    with Ledger(folder) as ledger:
        for part in PARTS:
            write(part, ledger, folder, experiment)
    return folder


def delete_experiment(server: Server, name: str) -> None:
    experiment = experiment_of(server.base_url, name)
    call(server.base_url, "experiments/delete", experiment_id=experiment["experiment_id"])


def state_of(server: Server, name: str) -> str:
    return experiment_of(server.base_url, name)["lifecycle_stage"]


@pytest.mark.parametrize("kind", ["server", "sqlite"])
def test_a_sweep_of_a_deleted_experiment_gets_another_one_and_that_is_said_once(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
):
    uri, name = server.base_url if kind == "server" else mlflow_uri(), f"lab/{kind}"
    old, new = sweep(f"{kind}-old", name), sweep(f"{kind}-new", name)
    assert sync(old, uri).reason == ""
    delete_experiment(server, name)
    assert name in deleted_experiments(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (line,) = [check for check in check_mlflow() if check.name == "mlflow experiments"]
    assert name in line.found
    assert "use NAME-2 instead of NAME" in line.found
    replayed = sync(new, uri)
    assert (replayed.reason, len(replayed.notices)) == ("", 1)
    assert replayed.notices[0].endswith(
        f"was deleted in MLflow and stays deleted; this sweep is in '{name}-2'"
    )
    assert (state_of(server, name), state_of(server, f"{name}-2")) == ("deleted", "active")
    assert runs_of(server.base_url, old.name, name) == []
    found = links(read_ledger(new), server.base_url)
    (own,) = by_kind(runs_of(server.base_url, new.name, f"{name}-2"), "sweep").values()
    assert found["sweep"].endswith(f"/runs/{own['id']}")
    before = tree(server, new.name, f"{name}-2")
    assert sync(new, uri).reason == ""
    assert tree(server, new.name, f"{name}-2") == before


def test_a_sweep_goes_on_where_its_runs_are_when_the_first_experiment_is_restored(server: Server):
    folder = sweep("back", "lab/back")
    assert sync(folder, server.base_url).reason == ""
    delete_experiment(server, "lab/back")
    assert sync(folder, server.base_url).reason == ""
    first = experiment_of(server.base_url, "lab/back")["experiment_id"]
    call(server.base_url, "experiments/restore", experiment_id=first)
    assert sync(folder, server.base_url).reason == ""
    both = [tree(server, "back", name) for name in ("lab/back", "lab/back-2")]
    assert both[0] == both[1]
    assert sync(sweep("next", "lab/back"), server.base_url).notices == []
    assert tree(server, "next", "lab/back")


def test_a_second_deletion_leads_to_a_third_name(server: Server):
    assert sync(sweep("one", "lab/twice"), server.base_url).reason == ""
    for name in ("lab/twice", "lab/twice-2"):
        delete_experiment(server, name)
        assert sync(sweep(f"after-{name[4:]}", "lab/twice"), server.base_url).reason == ""
    assert state_of(server, "lab/twice-3") == "active"


@pytest.mark.parametrize("what", ["experiment", "run"])
def test_what_is_deleted_while_the_sweep_runs_is_written_again_with_all_its_points(server: Server, what: str):
    whole, experiment = sweep(f"whole-{what}", f"lab/calm-{what}"), f"lab/cut-{what}"
    assert sync(whole, server.base_url).reason == ""
    folder = sweep_folder(f"cut-{what}")
    replayer = Replayer(folder, server.base_url)
    replayer.start()
    with Ledger(folder) as ledger:
        write("start", ledger, folder, experiment)
        write("middle", ledger, folder, experiment)
        wait_until(lambda: is_written(server, folder.name, experiment, "rank=4"))
        if what == "experiment":
            delete_experiment(server, experiment)
        else:
            run = by_kind(runs_of(server.base_url, folder.name, experiment), "sweep")[folder.name]
            call(server.base_url, "runs/delete", run_id=run["id"])
        write("end", ledger, folder, experiment)
        assert replayer.finish(120), replayer.reason
    assert "were deleted in MLflow; they are written again" in (folder / LOG).read_text()
    there = f"{experiment}-2" if what == "experiment" else experiment
    found, expected = tree(server, folder.name, there), tree(server, whole.name, f"lab/calm-{what}")
    assert found == expected
    assert len(replayer.notices) == (1 if what == "experiment" else 0)


def is_written(server: Server, sweep: str, experiment: str, trial: str) -> bool:
    try:
        runs = runs_of(server.base_url, sweep, experiment)
    except OSError:  # the experiment is not there yet
        return False
    return any(run["name"] == trial and run["status"] == "FINISHED" for run in runs)
