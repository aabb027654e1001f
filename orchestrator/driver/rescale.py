"""Fits the trials to a cluster that lost nodes, if need be with fewer workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.cluster.fit import most_workers
from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.resources import Concurrency
from orchestrator.driver.signals import StopRequest

WAIT_SECONDS = 5.0
"""Between two looks at a cluster that has lost all its nodes."""


class NodesLeft(NamedTuple):
    """A cluster, and how many workers a trial may have on it."""

    cluster: Cluster
    num_workers: int


def wait_for_nodes(
    address: str, at_first: Concurrency, say: Callable[[str], None], stop: StopRequest
) -> NodesLeft | None:
    """Returns the cluster as it is now; waits until it has a node. None = the user ended the sweep meanwhile.

    The number of workers changes no loss. The device stays that of the start.

    Raises:
        ClusterError: the cluster does not answer.
    """
    # A sweep on this machine needs no client of a cluster.
    from orchestrator.cluster.gcs_client import look_at

    cluster, is_first, planned = look_at(address), True, at_first.num_workers
    while not (num_workers := most_workers(cluster, planned, at_first.device)):
        if stop.exit_code:
            return None
        if is_first:
            say(f"waiting for a node: the cluster at {address} has none that takes trials")
        is_first = False
        time.sleep(WAIT_SECONDS)
        cluster = look_at(address)
    if num_workers < planned:
        say(f"{planned} workers have no room any more: trials continue with {num_workers}")
    return NodesLeft(cluster, num_workers)
