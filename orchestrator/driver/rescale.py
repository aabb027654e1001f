"""A cluster that shrank under a sweep: what is left of it takes the trials, if need be with fewer workers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TypedDict

from orchestrator.cluster.fit import most_workers
from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.resources import Concurrency
from orchestrator.driver.controller import Controller
from orchestrator.driver.signals import Interruption
from orchestrator.worker.trial_spec import TrialSpec

# Imports inside functions: a sweep on this machine asks no cluster.

WAIT_SECONDS = 5.0
"""Between two looks at a cluster that has lost all its nodes."""


class Left(TypedDict):
    """What changes of a sweep's options."""

    cluster: Cluster
    num_workers: int


def what_is_left(
    controller: Controller, address: str, planned: int, interrupted: Interruption
) -> Left | None:
    """Returns a cluster as it is now, and how many workers a trial may have on it; waits for a node.

    Losses do not depend on how many workers share a batch. None = the user ended the sweep meanwhile.

    Args:
        controller: of the sweep, which stays on the device that it began on.
        address: of the cluster.
        planned: workers of a trial.
        interrupted: whether the user wants the sweep to end.

    Raises:
        ClusterError: the cluster does not answer.
    """
    from orchestrator.cluster.gcs_client import look_at

    cluster, has_said = look_at(address), False
    while not (num_workers := most_workers(cluster, planned, controller.order.device)):
        if interrupted.exit_code:
            return None
        if not has_said:
            controller.say(f"waits for a node: the cluster at {address} has none that takes trials")
        has_said = True
        time.sleep(WAIT_SECONDS)
        cluster = look_at(address)
    if num_workers < planned:
        controller.say(f"{planned} workers have no room any more: trials go on with {num_workers}")
    return {"cluster": cluster, "num_workers": num_workers}


def ordered(order: TrialSpec, concurrency: Concurrency) -> TrialSpec:
    """Returns what all trials have in common, on their new shares."""
    return replace(
        order,
        num_workers=concurrency.num_workers,
        cpus_per_trial=concurrency.cpus_per_trial,
        gpus_per_trial=concurrency.gpus_per_trial,
        memory_budget_gb=concurrency.memory_budget_gb,
        spans_nodes=concurrency.spans_nodes,
    )
