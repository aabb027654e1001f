"""A driver's connection to a cluster that is there: it joins, and leaves; nothing of the cluster is ended."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.cluster_state import end_what_outlives, give_back_places
from orchestrator.cluster.environment import QUIET, secure_environment
from orchestrator.cluster.gcs_client import look_at
from orchestrator.cluster.local_ray import EXECUTION, quiet
from orchestrator.cluster.nodes import Cluster, cluster_address
from orchestrator.cluster.ray_internals import nodes_here
from orchestrator.storage.paths import PROJECT
from trainables.errors import ClusterError
from trainables.launch import LOOPBACK
from trainables.shell import command

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the environment of a job."""
OFFERED = ("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
"""Variables of the driver that trials get too, where they are set."""
PATIENCE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # then Ray ends this process; the default is 60
    "RAY_gcs_server_request_timeout_seconds": "20",  # no signal interrupts a question to a head that is gone
}
"""`watched_node` notices before Ray does that a cluster is lost, and must then get a word in."""
PLACES = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(24 * 3600)}
"""A trial waits for its places as long as it takes; what can never have them, `cluster_watch` notices."""
PACKAGES = ("orchestrator", "trainables")


def load_ray() -> None:
    """Sets what Ray reads once, and imports it. What binds a Ray of our own to this machine is not set."""
    secure_environment()
    os.environ.update(EXECUTION | PATIENCE)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # what a driver sets goes before what its job set
    importlib.import_module("ray")


def find_cluster(given: str | None) -> Cluster | None:
    """Returns the cluster to connect to, as `--address` or `RAY_ADDRESS` says; None = neither does.

    Raises:
        ConfigError: no address that a sweep can use.
        ClusterError: nothing answers there, or not to us.
    """
    if (address := cluster_address(given)) is None:
        return None
    load_ray()
    return look_at(address)


@contextmanager
def cluster_ray(cluster: Cluster, *, log: Path, scratch: Path, spans_nodes: bool) -> Generator[Path]:
    """Joins a cluster, and yields a scratch folder for Ray's files; leaves the cluster as it was.

    Meanwhile standard output and error of this process go to `log`: what Ray prints bypasses Python.

    Args:
        cluster: what `look_at` found.
        log: takes what is printed.
        scratch: emptied before and after. Every node must see it.
        spans_nodes: the workers of a trial may stand on several nodes, and meet over their network.

    Raises:
        ClusterError: it does not take this driver.
    """
    terminate = signal.getsignal(signal.SIGTERM)
    shutil.rmtree(scratch, ignore_errors=True)  # of a driver that was killed: the ledger's lock is ours now
    scratch.mkdir(parents=True)
    with quiet(log):
        try:
            join(cluster, environment(spans_nodes=spans_nodes))
            signal.signal(signal.SIGTERM, terminate)  # Ray put its own in place, which exits at once
            yield scratch
        finally:
            leave(cluster.address)
            signal.signal(signal.SIGTERM, terminate)
            shutil.rmtree(scratch, ignore_errors=True)


def join(cluster: Cluster, variables: dict[str, str]) -> None:
    """Connects this process as a driver.

    Raises:
        ClusterError: the cluster is gone, this machine is none of its nodes, or Ray refuses.
    """
    import ray

    there = look_at(cluster.address)  # at once, where Ray would try for a minute
    if not {node.node_id for node in there.nodes} & nodes_here():
        raise ClusterError(
            f"this machine is no node of the cluster at {cluster.address}, so no sweep can be run from here; "
            f"submit it ({command('submit SPACE --address http://HOST:8265')}), or let this machine "
            f"join: ray start --address={cluster.address}"
        )
    try:
        ray.init(
            address=cluster.address,
            runtime_env={"env_vars": variables} | code(),
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:
        raise ClusterError(f"the cluster at {cluster.address} does not take this driver: {error}") from error


def leave(address: str) -> None:
    """Ends this connection alone, and what Train would leave behind."""
    import ray

    job_id = ray.get_runtime_context().get_job_id() if ray.is_initialized() else None
    if job_id is not None:
        end_what_outlives(address, job_id)
    ray.shutdown()  # also what a connection that failed has left
    if job_id is not None:
        give_back_places(address, job_id)


def environment(*, spans_nodes: bool) -> dict[str, str]:
    """Returns the variables that trials need: their processes inherit those of their node, not ours."""
    inherited = {name: os.environ[name] for name in OFFERED if name in os.environ}
    return EXECUTION | PLACES | QUIET | ({} if spans_nodes else LOOPBACK) | inherited


def code() -> dict[str, Any]:
    """Returns how trials get this code: with the job's folder, or else from here."""
    job: dict[str, Any] = json.loads(os.environ.get(JOB_CONFIG) or "{}")
    if (job.get("runtime_env") or {}).get("working_dir"):
        return {}
    return {"py_modules": [str(PROJECT / name) for name in PACKAGES], "excludes": ["__pycache__"]}
