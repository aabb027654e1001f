"""Fits the trials to a cluster that lost nodes, with fewer workers if necessary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.cluster.fit import most_workers
from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.resources import Concurrency
from orchestrator.driver.signals import StopRequest

WAIT_SECONDS = 5.0
"""Time between two queries of a cluster that has lost all its nodes."""


class NodesLeft(NamedTuple):
    """A cluster, and the number of workers of a trial on this cluster."""

    cluster: Cluster
    num_workers: int


def wait_for_nodes(
    address: str, at_first: Concurrency, say: Callable[[str], None], stop: StopRequest
) -> NodesLeft | None:
    """Waits until the cluster has a usable node, and returns the cluster. None = the user ended the sweep.

    The number of workers does not change the loss. The device stays the same.

    Raises:
        ClusterError: the cluster does not answer.
    """
    # Inside the function: a sweep on one machine needs no cluster client.
    from orchestrator.cluster.gcs_client import look_at

    cluster, is_first, planned = look_at(address), True, at_first.num_workers
    while not (num_workers := most_workers(cluster, planned, at_first.device)):
        if stop.exit_code:
            return None
        if is_first:
            say(f"waiting for a node: the cluster at {address} has no node that can run trials")
        is_first = False
        time.sleep(WAIT_SECONDS)
        cluster = look_at(address)
    if num_workers < planned:
        say(f"the cluster has no room for {planned} workers any more: trials continue with {num_workers}")
    return NodesLeft(cluster, num_workers)
