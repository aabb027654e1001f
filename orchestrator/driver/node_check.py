"""Checks that every node reaches the storage, before a sweep starts."""

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
    """Makes each node read a file that this process wrote to the storage, and the other way round.

    Raises:
        ClusterError: names every node that cannot, and the reason.
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
    """Reads the driver's file and writes one, on a node; returns the problem, if there is one."""
    try:
        home()
        storage = open_storage(uri)
        if storage.get_bytes(f"{place}/driver") != token.encode():
            return "reads something else there than the driver wrote"
        storage.put_bytes(f"{place}/{name}", token.encode())
    except FileNotFoundError:
        return "does not see what the driver wrote there: a folder has to be shared by all nodes"
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
            return "what it wrote there is read as something else"
    except FileNotFoundError:
        return "what it wrote there is not seen here: a folder has to be shared by all nodes"
    except StorageError:
        raise
    except Exception as error:  # Ray's: the node died, or has not answered
        return f"could not be asked ({type(error).__name__})"
    return None
