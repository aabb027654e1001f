"""A real MLflow server in a process of its own, a ledger replayed into it by another, read here over HTTP."""

import hashlib
import hmac
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ledger_history import (
    KEYS,
    OBJECTIVE,
    PATIENT,
    by_kind,
    call,
    end,
    finish_demo,
    history,
    is_group_alive,
    place,
    probe_path,
    report,
    runs_of,
    start,
    wait_until,
)

from orchestrator.storage.events import SweepFinished, TrialFinished
from orchestrator.storage.ledger import Entry, Ledger, LedgerReader, read_ledger
from orchestrator.storage.paths import hmac_key, sweep_folder
from orchestrator.tracking.mlflow_runs import SweepRuns, parameters, points_of_epoch, private
from orchestrator.tracking.mlflow_server import Server, deleted_experiments, free_port, links, serve
from orchestrator.tracking.replay import LOG, Replayer, absolute, environment, sync
from trainables.artifacts import verify
from trainables.config import TrialConfig, from_flat, to_flat
from trainables.errors import ClusterError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """A home, and a server that was down when the sweep `demo` began; an old ./mlruns lies in the cwd."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tracking")
        patch.setenv("CLIP_ORCHESTRATOR_HOME", str(folder / "home"))
        (folder / "mlruns" / "0").mkdir(parents=True)
        (folder / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: old\n")
        patch.chdir(folder)
        port = free_port("127.0.0.1", 20000 + os.getpid() % 20000)
        demo = sweep_folder("demo")
        replayer = Replayer(demo, f"http://127.0.0.1:{port}")
        replayer.start()
        with Ledger(demo) as ledger:
            start(ledger, "demo")
            place(ledger, "frozen", **{"adapt.method": "none"})
            wait_until(lambda: "MLflow: " in (demo / LOG).read_text())  # it was told that nobody is there
            server = serve(f"sqlite:///{folder / 'home' / 'mlflow.db'}", port=port)
            try:
                finish_demo(ledger, demo)
                assert replayer.finish(120), replayer.reason
                yield folder, server
            finally:
                group = server.process.pid if server.process else 0
                server.stop()
    assert not is_group_alive(group)


@pytest.fixture
def folder(world: tuple[Path, Server]) -> Path:
    return world[0]


@pytest.fixture
def server(world: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    folder, server = world
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    return server


# --- a sweep that was never run, with all that a real one leaves behind


# --- reading back, over HTTP alone


def everything(home: Path) -> list[tuple[Any, ...]]:
    """All runs and all metric points of the database, so that one too many shows."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        runs = "select run_uuid, name, status from runs where lifecycle_stage = 'active'"
        points = (
            f"select m.run_uuid, key, value, step from metrics m join ({runs}) r on r.run_uuid = m.run_uuid"
        )
        return sorted(database.execute(runs).fetchall()) + sorted(database.execute(points).fetchall())


# --- one server and one sweep for all tests of this module


def test_sweep_trials_and_probes_equal_the_ledgers(server: Server):
    """Also: the server was down when the replay began."""
    runs = runs_of(server.base_url, "demo")
    state = read_ledger(sweep_folder("demo"))
    sweep = by_kind(runs, "sweep")["demo"]
    trials, probes = by_kind(runs, "trial"), by_kind(runs, "probe")
    assert {name: trial["status"] for name, trial in trials.items()} == {
        "frozen": "FINISHED", "rank=4": "FINISHED", "rank=16": "FINISHED", "rank=64": "FAILED",
    }  # fmt: skip
    assert sweep["status"] == "FINISHED"
    assert all(trial["tags"]["mlflow.parentRunId"] == sweep["id"] for trial in trials.values())
    for trial in state.trials.values():
        run = trials[trial.name]
        expected = from_flat(trial.config)
        assert run["params"]["adapt.method"] == expected.adapt.method
        assert run["params"].get("lora.rank") == (None if trial.is_baseline else str(expected.lora.rank))
        assert run["tags"]["orchestrator.trial_key"] == trial.trial_key
        reports = {epoch: metrics for _, epoch, metrics in trial.history}
        assert history(server.base_url, run["id"], "train/loss") == [
            (epoch, metrics["train/loss"]) for epoch, metrics in reports.items()
        ]
        children = [probe for probe in probes.values() if probe["tags"]["mlflow.parentRunId"] == run["id"]]
        fits = probe_path() if trial.status == "finished" else []
        assert sorted((p["params"]["probe.features"], float(p["params"]["probe.l2"])) for p in children) == [
            (fit["features"], fit["l2"]) for fit in fits
        ]
    chosen = next(probe for probe in probes.values() if probe["name"] == "rank=16 · joint λ=0.1")
    assert chosen["tags"]["orchestrator.is_chosen"] == "true"
    assert history(server.base_url, chosen["id"], "val/probe_joint/accuracy") == [(2, 0.7)]


def test_a_metric_without_a_value_is_absent(server: Server):
    probes = by_kind(runs_of(server.base_url, "demo"), "probe")
    assert "val/probe_pooled/macro_auroc" not in probes["rank=16 · pooled λ=0.001"]["metrics"]
    assert "val/probe_pooled/macro_auroc" in probes["rank=16 · pooled λ=0.01"]["metrics"]


def test_final_and_test_values_follow_the_epochs(server: Server):
    trial = by_kind(runs_of(server.base_url, "demo"), "trial")["rank=16"]
    assert history(server.base_url, trial["id"], OBJECTIVE) == [(1, 0.6), (2, 0.7), (3, 0.8), (3, 0.9)]
    assert history(server.base_url, trial["id"], "test/probe_joint/accuracy") == [(3, 0.75)]
    steps = history(server.base_url, trial["id"], "train/step_loss")
    assert steps == [(1, 1.0), (2, 2 / 3), (3, 0.5), (4, 0.4), (5, 2 / 6), (6, 2 / 7)]


def test_the_best_trial_stands_on_the_sweeps_own_row(server: Server):
    sweep = by_kind(runs_of(server.base_url, "demo"), "sweep")["demo"]
    assert sweep["tags"]["orchestrator.best_trial"] == KEYS["rank=16"]
    assert [value for _, value in history(server.base_url, sweep["id"], OBJECTIVE)] == [0.7, 0.8, 0.9, 0.9]
    assert sweep["params"]["search.searcher"] == "grid"


def test_notes_about_the_data_are_in_the_sweeps_description_and_in_the_tags_of_every_trial(server: Server):
    runs = runs_of(server.base_url, "demo")
    sweep = by_kind(runs, "sweep")["demo"]["tags"]["mlflow.note.content"]
    assert sweep.startswith("Best on val: **rank=16**")
    assert sweep.endswith(
        "Data: 3 images excluded by bad.txt. "
        "Intervals are by image, not by patient: the data set has no patient ids."
    )
    noted = {"orchestrator.data_notes": "3 images excluded by bad.txt", "orchestrator.by_image": "true"}
    assert all(noted.items() <= trial["tags"].items() for trial in by_kind(runs, "trial").values())


def test_what_a_result_stands_on_is_tagged(server: Server):
    tags = by_kind(runs_of(server.base_url, "demo"), "trial")["rank=16"]["tags"]
    expected = {
        "mlflow.source.git.commit": "c0ffee", "orchestrator.versions.torch": "2.14.1",
        "orchestrator.data_fingerprint": "da7a", "orchestrator.encoder_fingerprint": "e4c0",
        "orchestrator.hardware.num_cpus": "2", "orchestrator.method": "lora+projection",
        "orchestrator.seed": "0", "orchestrator.execution.micro_batch_size": "8",
        "orchestrator.attempts": "2",
    }  # fmt: skip
    assert expected.items() <= tags.items()


def test_a_second_replay_adds_nothing(server: Server, folder: Path):
    before = everything(folder / "home")
    assert sync(sweep_folder("demo"), server.base_url).reason == ""
    assert everything(folder / "home") == before


def test_what_a_crash_left_half_done_is_mended(server: Server, folder: Path):
    """Batches that were written but not marked, and runs made twice because the first answer was lost."""
    before = everything(folder / "home")
    runs = runs_of(server.base_url, "demo")
    trial, probe = by_kind(runs, "trial")["rank=16"], by_kind(runs, "probe")["rank=16 · joint λ=0.1"]
    call(server.base_url, "runs/set-tag", run_id=trial["id"], key="orchestrator.seq", value="0")
    experiment = call(server.base_url, "runs/search", experiment_ids=["1"], max_results=1)["runs"][0]["info"]
    for run in (trial, probe):
        kept = ("sweep", "sweep_id", "kind", "trial_key", "probe")
        tags = [{"key": k, "value": v} for k, v in run["tags"].items() if k.partition(".")[2] in kept]
        call(
            server.base_url,
            "runs/create",
            experiment_id=experiment["experiment_id"],
            tags=tags,
            run_name="twin",
        )
    assert len(everything(folder / "home")) == len(before) + 2
    assert sync(sweep_folder("demo"), server.base_url).reason == ""
    assert everything(folder / "home") == before


def test_a_killed_driver_leaves_no_run_open_and_a_later_attempt_reopens_them(server: Server, folder: Path):
    """Written into the database itself, while the server reads it."""
    uri, cut = f"sqlite:///{folder / 'home' / 'mlflow.db'}", sweep_folder("cut")
    with Ledger(cut) as ledger:
        start(ledger, "cut")
        place(ledger, "rank=4", **{"lora.rank": 4})
        report(ledger, "rank=4", range(1, 3))
        replay = replay_of_a_killed_driver(cut, uri)
        wait_until(lambda: not is_group_alive(replay))
        runs = runs_of(server.base_url, "cut")
        assert [run["status"] for run in runs] == ["KILLED", "KILLED"]
        assert by_kind(runs, "trial")["rank=4"]["tags"]["orchestrator.cause"] == "interrupted"
        start(ledger, "cut")
        place(ledger, "rank=4", attempt=2, **{"lora.rank": 4})
        report(ledger, "rank=4", range(2, 4), attempt=2)
        end(ledger, cut, "rank=4", 0.8)
        ledger.append(SweepFinished(exit_code=0, seconds=9.0))
        assert sync(cut, uri).reason == ""
    runs = runs_of(server.base_url, "cut")
    assert {run["status"] for run in runs} == {"FINISHED"}
    trial = by_kind(runs, "trial")["rank=4"]
    assert trial["tags"]["orchestrator.cause"] == "none"
    assert [step for step, _ in history(server.base_url, trial["id"], "train/loss")] == [1, 2, 3]


def replay_of_a_killed_driver(folder: Path, uri: str) -> int:
    """Returns the process of a replay whose driver got `kill -9`."""
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.tracking.replay import Replayer\n"
        "replayer = Replayer(Path(sys.argv[1]), sys.argv[2]); replayer.start()\n"
        "print(replayer.process.pid, flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), uri], stdout=subprocess.PIPE, env=environment
    )
    assert driver.stdout is not None
    process = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    return process


def test_nothing_private_leaves_the_machine(server: Server, folder: Path):
    home = folder / "home"
    logged = [
        home / "mlflow.db",
        *(path for path in (home / "mlflow-artifacts").rglob("*") if path.is_file()),
    ]
    assert {"config.json", "confusion.json", "leaderboard.html", "space.json", "adapter_config.json"} <= {
        path.name for path in logged
    }
    for path in logged:
        for secret in ("hospital-7f3a", PATIENT):
            assert secret.encode() not in path.read_bytes(), f"{secret} in {path.name}"


def test_predictions_are_keyed_by_hmac(server: Server, folder: Path):
    path = next((folder / "home" / "mlflow-artifacts").rglob("predictions.parquet"))
    rows = pq.read_table(path).to_pylist()
    expected = [
        hmac.new(hmac_key(), f"{PATIENT}-view{i}".encode(), hashlib.sha256).hexdigest() for i in range(3)
    ]
    assert [row["image_hmac"] for row in rows] == expected
    assert [row["split"] for row in rows] == ["val", "val", "test"]
    assert rows[0].keys() == {"image_hmac", "split", "system", "scores"}


def test_a_logged_adapter_still_matches_its_manifest(server: Server, folder: Path):
    adapter = next((folder / "home" / "mlflow-artifacts").rglob("adapter_config.json")).parent
    verify(adapter)
    assert json.loads((adapter / "adapter_config.json").read_text()) == {"base_model_name_or_path": "clip"}


def test_links_show_the_trials_of_the_sweep(server: Server):
    runs = runs_of(server.base_url, "demo")
    sweep, trials = by_kind(runs, "sweep")["demo"], by_kind(runs, "trial")
    pages = links(read_ledger(sweep_folder("demo")), server.base_url)
    assert pages["sweep"].endswith(f"/runs/{sweep['id']}")
    query = urllib.parse.parse_qs(pages["trials"].partition("?")[2])
    assert query["searchFilter"] == [f"tags.mlflow.parentRunId = '{sweep['id']}'"]
    assert query["orderByKey"] == [f"metrics.`{OBJECTIVE}`"]  # without it MLflow folds the rows away
    compared = urllib.parse.parse_qs(pages["parallel coordinates"].partition("?")[2])
    best_first = [trials[name]["id"] for name in ("rank=16", "rank=4", "frozen", "rank=64")]
    assert json.loads(compared["runs"][0]) == best_first
    assert "compareRunsMode=CHART" in pages["charts"]


def test_a_store_that_is_not_there_yet_has_no_deleted_experiments(tmp_path: Path):
    assert deleted_experiments(f"sqlite:///{tmp_path / 'mlflow.db'}") == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_sweep_that_is_not_in_mlflow_is_named(server: Server):
    folder = sweep_folder("absent")
    with Ledger(folder) as ledger:
        start(ledger, "absent")
    with pytest.raises(ClusterError, match=r"does not have sweep 'absent'.*sync absent"):
        links(read_ledger(folder), server.base_url)


@pytest.mark.parametrize("header", [{"Host": "evil.example:80"}, {"Origin": "http://evil.example"}])
def test_the_server_refuses_foreign_hosts_and_origins(server: Server, header: dict[str, str]):
    request = urllib.request.Request(
        f"{server.base_url}/api/2.0/mlflow/runs/search", b'{"experiment_ids": ["0"]}',
        {"Content-Type": "application/json"} | header,
    )  # fmt: skip
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)


def test_the_server_listens_on_the_loopback_interface_alone(server: Server):
    port = int(server.base_url.rpartition(":")[2])
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_server_ends_with_its_owner(home: Path):
    """Here before it is up: what `kill -9` of `ui` does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.tracking.mlflow_server", "127.0.0.1", "20999"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=Path(__file__).parents[3], start_new_session=True,
        env=environment(f"sqlite:///{home}/mlflow.db"),
    )  # fmt: skip
    assert process.stdin is not None
    wait_until(lambda: len(group_members(process.pid)) > 1)
    process.communicate()
    wait_until(lambda: not is_group_alive(process.pid))


def group_members(group: int) -> list[str]:
    stats = (read_stat(path) for path in Path("/proc").glob("[0-9]*/stat"))
    return [stat[0] for stat in stats if stat and stat[0] != "Z" and int(stat[2]) == group]


def read_stat(path: Path) -> list[str]:
    try:
        return path.read_text().rpartition(") ")[2].split()  # state, parent, group, …
    except OSError:  # it ended
        return []


# --- nothing of this reaches the sweep


def test_a_server_that_never_answers_does_not_delay_the_caller(server: Server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        replayer = Replayer(sweep_folder("demo"), f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        replayer.start()
        assert time.monotonic() - began < 1
        process = replayer.process
        silent.settimeout(60)
        connection, _ = silent.accept()  # it asks, and waits
        with connection:
            began = time.monotonic()
            assert not replayer.finish(0.5)
            assert time.monotonic() - began < 2
        assert "not done after 0.5 s" in replayer.reason
        assert process is not None
        assert not is_group_alive(process.pid)


def test_a_replay_that_cannot_start_is_a_reason_and_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLIP_ORCHESTRATOR_HOME", "/proc/no-such-home")
    replayer = Replayer(tmp_path / "sweep", "sqlite:////tmp/x.db")
    replayer.start()
    assert not replayer.finish(1)
    assert "could not start" in replayer.reason


# --- ledger → runs, without MLflow


def test_step_losses_become_one_curve_over_optimiser_steps():
    entry = Entry(7, "2026-01-01T00:00:00+00:00", None)
    metrics = {"train/epoch": 2.0, "train/loss": 0.5, "train/step_loss_0": 0.6, "train/step_loss_1": 0.4}
    points = points_of_epoch(metrics, 2, entry)
    assert [(point.key, point.step, point.value) for point in points] == [
        ("train/loss", 2, 0.5), ("train/step_loss", 3, 0.6), ("train/step_loss", 4, 0.4),
    ]  # fmt: skip
    assert {point.milliseconds for point in points} == {1767225600000}


def test_a_trial_that_was_stopped_early_repeats_no_step_losses(tmp_path: Path):
    """Its final metrics are what it reported last, and what earlier epochs reported beyond that."""
    runs = SweepRuns(tmp_path / "s")
    with Ledger(tmp_path / "s") as ledger:
        start(ledger, "s")
        place(ledger, "rank=4")
        report(ledger, "rank=4", range(1, 2))
        final = {"train/step_loss_0": 1.0, "train/step_loss_9": 0.9, OBJECTIVE: 0.6}
        ends = {"seconds": 1.0, "workdir": "", "results": {}, "stopped_early": True}
        ledger.append(TrialFinished(trial_key=KEYS["rank=4"], attempt=1, metrics=final, **ends))
    for entry in LedgerReader(tmp_path / "s").poll():
        runs.apply(entry)
    keys = [point.key for point in runs.trials[KEYS["rank=4"]].points]
    assert sorted(keys) == sorted([*["train/step_loss"] * 2, "train/loss", OBJECTIVE, "perf/trial_seconds"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"data.root": "x", "data": {"manifest": "m.csv", "seed": 1}}, {"data": {"seed": 1}}),
        (["/srv/models/clip", "~/clip/", "../clip", "C:\\models\\clip"], ["clip"] * 4),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("openai:/home/me/ViT.pt", "openai:ViT.pt"),
        (["open_clip:RN50@~/a/b.pt", "dual:/srv/vit+org/text"], ["open_clip:RN50@b.pt", "dual:vit+org/text"]),
    ],
)
def test_private_values_lose_their_places(value: Any, expected: Any):
    assert private(value) == expected


def test_parameters_are_the_science_alone():
    config = to_flat(TrialConfig())
    params = parameters(config)
    assert (params["lora.rank"], params["lora.scaling"], params["loss.kind"]) == (
        "8",
        "2.0",
        "multi_positive",
    )
    assert not [key for key in params if key.startswith("execution.") or key == "data.root"]
    assert "lora.rank" not in parameters(config | {"adapt.method": "none"})


def test_a_relative_sqlite_uri_means_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///runs.db") == f"sqlite:///{tmp_path / 'runs.db'}"
    assert absolute("sqlite:////a/runs.db") == "sqlite:////a/runs.db"
    assert absolute("http://h:1") == "http://h:1"
