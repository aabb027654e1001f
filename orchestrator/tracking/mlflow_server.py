"""Starts MLflow's server on the loopback interface, and returns links to the pages of a sweep."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from orchestrator.storage.ledger import SweepState
from orchestrator.storage.paths import artifact_root, home
from orchestrator.tracking.mlflow_runs import experiment_names
from orchestrator.tracking.owned_process import POLL_SECONDS, end_owned, has_ended, start_owned
from orchestrator.tracking.replay import absolute, environment
from orchestrator.tracking.store_schema import sqlite_file
from orchestrator.tracking.store_upgrade import prepared
from trainables.errors import ClusterError
from trainables.shell import command

LOG = "mlflow-server.log"
START_SECONDS = 120.0
STOP_SECONDS = 10.0
CALL_SECONDS = 30
API = "/api/2.0/mlflow"
MAX_COMPARED = 50  # runs on one page; MLflow is slow above 100


@dataclass
class Server:
    """A running MLflow server. It ends with this process, if this process started it (`process`)."""

    process: subprocess.Popen[bytes] | None
    base_url: str
    notice: str = ""  # a sentence for the user, if the store was migrated

    def stop(self) -> None:
        """Ends the server and all its processes. May be called twice."""
        if self.process is None:
            return
        end_owned(self.process, 2 * STOP_SECONDS)
        self.process = None


def serve(uri: str, host: str = "127.0.0.1", port: int = 5000) -> Server:
    """Starts MLflow's server for a store, and returns it once it answers.

    Args:
        uri: URI of the store. If it is the address of a server, nothing is started.
        host: address to listen on. If it is not loopback, everyone in the network can read the runs.
        port: first port to try. If it is in use, the next free port is taken.

    Raises:
        ClusterError: the server did not start, or the store needs a migration that is not made here.
    """
    if uri.startswith(("http://", "https://")):
        return Server(None, uri.rstrip("/"))
    with prepared(absolute(uri)) as said:  # held until the server answers: it may create the tables
        server = _start(uri, host, free_port(host, port))
    server.notice = said
    return server


def _start(uri: str, host: str, port: int) -> Server:
    log = home() / LOG
    with log.open("wb") as output:
        settings = environment(uri) | server_settings(uri, host, port)
        module = "orchestrator.tracking.mlflow_server"
        process = start_owned(module, host, str(port), env=settings, stdout=output, stderr=output)
    server = Server(process, f"http://{host}:{port}")
    deadline = time.monotonic() + START_SECONDS
    try:
        while not _answers(server.base_url):
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise ClusterError(f"MLflow did not start on {server.base_url}: {last[0]} (log: {log})")
            time.sleep(0.2)
    except BaseException:
        server.stop()
        raise
    return server


def server_settings(uri: str, host: str, port: int) -> dict[str, str]:
    """Returns environment variables for the server. They are private: the store's URI may have a password."""
    names = [host] if host == "127.0.0.1" else [host, "127.0.0.1"]
    hosts = [f"{name}:{port}" for name in [*names, "localhost"]]
    return {
        "MLFLOW_BACKEND_STORE_URI": absolute(uri),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifact_root(),  # where a sweep writes files without the server
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),  # against DNS rebinding
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves seven idle processes
    }


def free_port(host: str, port: int) -> int:
    """Returns the first free port that is not below `port`."""
    for candidate in range(port, min(port + 100, 65536)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, candidate))
            return candidate
    raise ClusterError(f"no free port from {port} to {port + 99} on {host}; choose another with --port")


def links(state: SweepState, base_url: str) -> dict[str, str]:
    """Returns the name and address of each useful page. MLflow's own list of runs hides the trials.

    Raises:
        ClusterError: the server does not answer, or does not have this sweep.
    """
    try:
        experiment, sweep = _find_sweep(state, base_url)
        children = f"tags.mlflow.parentRunId = '{sweep}'"
        key = f"metrics.`{state.started.objective}`"
        trials = _search(base_url, experiment, children, order_by=[f"{key} DESC"])
    except (OSError, LookupError) as error:
        raise ClusterError(
            f"MLflow at {base_url} does not have sweep '{state.name}' ({type(error).__name__}: {error}); "
            f"write it with `{command(f'sync {state.name}')}`"
        ) from error
    page = f"{base_url}/#/experiments/{experiment}/runs"
    table = (
        f"{page}?searchFilter={quote(children, safe='')}&orderByKey={quote(key, safe='')}&orderByAsc=false"
    )
    compared = quote(json.dumps(trials), safe=""), quote(json.dumps([experiment]), safe="")
    return {
        "trials": table,
        "charts": f"{table}&compareRunsMode=CHART",
        "parallel coordinates": f"{base_url}/#/compare-runs?runs={compared[0]}&experiments={compared[1]}",
        "sweep": f"{page}/{sweep}",
    }


def deleted_experiments(uri: str) -> list[str]:
    """Returns the names of deleted experiments in a SQLite file or on a server; [] for any other store.

    Does not import MLflow, which would migrate an older database.

    Raises:
        OSError: the server does not answer.
    """
    if uri.startswith(("http://", "https://")):
        query = {"view_type": "DELETED_ONLY", "max_results": 1000}
        found = _call(f"{uri.rstrip('/')}{API}/experiments/search", query).get("experiments", [])
        return sorted(experiment["name"] for experiment in found)
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return []
    statement = "select name from experiments where lifecycle_stage = 'deleted' order by name"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return [name for (name,) in database.execute(statement)]
    return []


def _find_sweep(state: SweepState, base_url: str) -> tuple[str, str]:
    """Returns the ids of the experiment and of the sweep's own run.

    Raises:
        OSError: no experiment has the sweep, or the server does not answer.
    """
    own = f"tags.`orchestrator.sweep` = '{state.name}' and tags.`orchestrator.kind` = 'sweep'"
    for name in experiment_names(state.started.experiment):
        address = f"{base_url}{API}/experiments/get-by-name?experiment_name={quote(name, safe='')}"
        experiment = _call(address)["experiment"]  # fails after the last one
        found = _search(base_url, experiment["experiment_id"], own)  # finds nothing in a deleted experiment
        if found:
            return experiment["experiment_id"], found[0]
    raise AssertionError("names never end")


def _search(
    base_url: str, experiment: str, condition: str, *, order_by: list[str] | None = None
) -> list[str]:
    """Returns the ids of the matching runs. Default order: the newest first."""
    query = {
        "experiment_ids": [experiment],
        "filter": condition,
        "max_results": MAX_COMPARED,
        "order_by": order_by or ["attributes.start_time DESC"],
    }
    found = _call(f"{base_url}{API}/runs/search", query)
    return [run["info"]["run_id"] for run in found.get("runs", [])]


def _call(url: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
    body = None if query is None else json.dumps(query).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
        return json.load(answer)


def main() -> None:
    """Runs MLflow's server until standard input is closed. Arguments: HOST PORT.

    MLflow starts more processes in the process group of this process. At the end, the whole group is killed.
    """
    host, port = sys.argv[1:]
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while process.poll() is None and not has_ended(sys.stdin.fileno(), POLL_SECONDS):
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the signal is for the other processes of the group
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _answers(base_url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{base_url}/health", timeout=2) as answer:
        return answer.status == 200
    return False


if __name__ == "__main__":
    main()
