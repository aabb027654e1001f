"""Checks before a sweep starts that every node can use the storage."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import secrets
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.storage.paths import home
from orchestrator.storage.store import CHECKS, Storage, StorageError, open_storage
from trainables.errors import ClusterError, UserError

PATIENCE_SECONDS = 60.0


def check_nodes(storage: Storage) -> None:
    """Checks that each node reads a file of this process from the storage, and the reverse.

    Raises:
        ClusterError: at least one node failed; the message names each such node and its reason.
    """
    token = secrets.token_hex(8)
    place = f"{CHECKS}/{token}"
    storage.put_bytes(f"{place}/driver", token.encode())
    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    answers = {node["NodeID"]: _ask(node["NodeID"], storage.uri, place, token) for node in nodes}
    problems = [
        f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {problem}"
        for node in nodes
        if (problem := _problem(answers[node["NodeID"]], storage, f"{place}/{node['NodeID']}", token))
    ]
    storage.delete(place)
    if problems:
        raise ClusterError(
            f"storage {storage.uri} cannot be used by {len(problems)} of {len(nodes)} nodes; nothing was "
            "started. " + "; ".join(problems)
        )


@ray.remote(num_cpus=0, max_retries=0)
def probe(uri: str, place: str, name: str, token: str) -> str | None:
    """Reads the driver's file and writes a file, on one node; returns the problem, or None."""
    try:
        home()
        storage = open_storage(uri)
        if storage.get_bytes(f"{place}/driver") != token.encode():
            return "reads other content from the storage than the driver wrote"
        storage.put_bytes(f"{place}/{name}", token.encode())
    except FileNotFoundError:
        return "does not see the driver's file: if the storage is a folder, all nodes must share it"
    except UserError as error:
        return str(error)
    return None


def _ask(node_id: str, uri: str, place: str, token: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return probe.options(scheduling_strategy=there).remote(uri, place, node_id, token)


def _problem(answer: Any, storage: Storage, key: str, token: str) -> str | None:
    try:
        problem: Any = ray.get(answer, timeout=PATIENCE_SECONDS)
        if problem:
            return problem
        if storage.get_bytes(key) != token.encode():
            return "the driver reads other content from the storage than the node wrote"
    except FileNotFoundError:
        return "the driver does not see the node's file: if the storage is a folder, all nodes must share it"
    except StorageError:
        raise
    except Exception as error:  # an error of Ray: the node died or did not answer
        return f"did not answer ({type(error).__name__})"
    return None
