"""Two commands that are started at the same moment in an empty home."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from sweep_process import plain_environment

from orchestrator.storage.ledger import read_ledger

PROJECT = Path(__file__).resolve().parents[3]
TINY = {
    "data.phantom.num_train": 12,
    "data.phantom.num_val": 6,
    "data.phantom.num_test": 6,
    "encoder.image_size": 32,
    "num_epochs": 1,
    "global_batch_size": 8,
    "search.searcher": "random",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def start_two(home: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    variables = plain_environment() | {"CLIP_ORCHESTRATOR_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            cwd=home.parent,
            # A background job of a shell ignores SIGINT, and so would these processes.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        for _ in range(2)
    ]


@pytest.mark.ray
def test_two_sweeps_get_two_names_and_are_both_complete_in_mlflow(home: Path):
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    drivers = start_two(home, "sweep", "demo", "--trials", "1", *settings)
    printed = [driver.communicate(timeout=500)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], printed
    assert not any("incomplete" in text for text in printed), printed
    sweeps = sorted((home / "sweeps").iterdir())
    assert len(sweeps) == 2
    statement = (
        "select kind.value, runs.status, count(*) from runs "
        "join tags sweep on sweep.run_uuid = runs.run_uuid and sweep.key = 'orchestrator.sweep' "
        "join tags kind on kind.run_uuid = runs.run_uuid and kind.key = 'orchestrator.kind' "
        "where sweep.value = ? and kind.value != 'probe' group by 1, 2"
    )
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        for folder in sweeps:
            state = read_ledger(folder)
            assert {trial.status for trial in state.trials.values()} == {"finished"}
            log = (folder / "tracking.log").read_text()
            assert "OperationalError" not in log, log
            assert "CircularDependencyError" not in log, log
            found = sorted(database.execute(statement, (folder.name,)))
            assert found == [("sweep", "FINISHED", 1), ("trial", "FINISHED", len(state.trials))]
        assert database.execute("select count(*) from experiments where name = 'demo'").fetchall() == [(1,)]
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_two_servers_of_one_store_get_two_ports(home: Path):
    port = 24000 + os.getpid() % 20000
    servers = start_two(home, "ui", "--port", str(port))
    try:
        addresses = [address_of(server) for server in servers]
        assert len(set(addresses)) == 2
        for address in addresses:
            with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
                assert answer.status == 200
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
    assert [server.returncode for server in servers] == [0, 0]


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    said, deadline = "", time.monotonic() + 240
    while time.monotonic() < deadline and (line := server.stdout.readline()):
        said += line
        if found := re.search(r"MLflow  (http://\S+)", line):
            return found[1]
    pytest.fail(f"no address: {said}")
