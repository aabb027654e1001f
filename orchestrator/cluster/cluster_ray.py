"""Connects this driver to a running cluster. At the end, the driver leaves nothing in the cluster."""

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
"""Ray sets this variable in the environment of a job."""
OFFERED = ("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
"""Variables that the driver passes to trials, if they are set."""
PATIENCE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # after this time, Ray ends this process; default: 60 s
    "RAY_gcs_server_request_timeout_seconds": "20",  # no signal interrupts a call to a lost head
}
"""Ray must wait longer than `watched_node`, which reports a lost cluster."""
PLACES = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(24 * 3600)}
"""A trial may wait long for resources. `driver.pending_trials` finds trials that can never start."""
PACKAGES = ("orchestrator", "trainables")


def load_ray() -> None:
    """Sets the environment variables for a cluster, then imports Ray, which reads them."""
    secure_environment()
    os.environ.update(EXECUTION | PATIENCE)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # the driver's settings override its job's
    importlib.import_module("ray")


def find_cluster(given: str | None) -> Cluster | None:
    """Returns the cluster that `--address` or `RAY_ADDRESS` names; None = neither is set."""
    if (address := cluster_address(given)) is None:
        return None
    load_ray()
    return look_at(address)


@contextmanager
def cluster_ray(cluster: Cluster, *, log: Path, scratch: Path, spans_nodes: bool) -> Generator[Path]:
    """Joins a cluster, yields a scratch folder for Ray's files, and leaves the cluster at the end.

    Inside the block, standard output and error go to `log`, because Ray's output bypasses Python.

    Args:
        cluster: the cluster that `look_at` returned.
        log: file for the output.
        scratch: folder that every node can access. Old content is deleted; the folder is deleted at the end.
        spans_nodes: whether the workers of a trial may run on several nodes, connected by the network.
    """
    terminate = signal.getsignal(signal.SIGTERM)
    shutil.rmtree(
        scratch, ignore_errors=True
    )  # left by a killed driver; this driver now holds the ledger's lock
    scratch.mkdir(parents=True)
    with quiet(log):
        try:
            join(cluster, environment(spans_nodes=spans_nodes))
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler would exit at once
            yield scratch
        finally:
            leave(cluster.address)
            signal.signal(signal.SIGTERM, terminate)
            shutil.rmtree(scratch, ignore_errors=True)


def join(cluster: Cluster, variables: dict[str, str]) -> None:
    """Connects this process to a cluster as a driver."""
    import ray

    there = look_at(cluster.address)  # fails at once; Ray would try for a minute
    if not {node.node_id for node in there.nodes} & nodes_here():
        raise ClusterError(
            f"this machine is not a node of the cluster at {cluster.address}, so no sweep can run on it; "
            f"submit the sweep ({command('submit SPACE --address http://HOST:8265')}), or let this machine "
            f"join the cluster: ray start --address={cluster.address}"
        )
    try:
        ray.init(
            address=cluster.address,
            runtime_env={"env_vars": variables} | code(),
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:
        raise ClusterError(f"the cluster at {cluster.address} refuses this driver: {error}") from error


def leave(address: str) -> None:
    """Disconnects this process, and ends the actors that Ray Train would leave in the cluster."""
    import ray

    job_id = ray.get_runtime_context().get_job_id() if ray.is_initialized() else None
    if job_id is not None:
        end_what_outlives(address, job_id)
    ray.shutdown()  # also after a failed connection
    if job_id is not None:
        give_back_places(address, job_id)


def environment(*, spans_nodes: bool) -> dict[str, str]:
    """Returns the variables to set for trials, which inherit the environment of their node."""
    inherited = {name: os.environ[name] for name in OFFERED if name in os.environ}
    return EXECUTION | PLACES | QUIET | ({} if spans_nodes else LOOPBACK) | inherited


def code() -> dict[str, Any]:
    """Returns the runtime environment that copies this code to nodes; empty if the job has copied it."""
    job: dict[str, Any] = json.loads(os.environ.get(JOB_CONFIG) or "{}")
    if (job.get("runtime_env") or {}).get("working_dir"):
        return {}
    return {"py_modules": [str(PROJECT / name) for name in PACKAGES], "excludes": ["__pycache__"]}
