"""Reads the state of a cluster during a sweep: free resources, lost nodes, pending placement groups."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable
from typing import Any

from orchestrator.cluster.placement import PLACES, Room, place_key
from orchestrator.cluster.ray_internals import ALIVE, DEAD, PLACED, REMOVED, ask

# Imports inside functions: grpc is installed with Ray, and takes seconds to load.

PROBE_SECONDS = 2.0
GOES_SECONDS = 1.0
"""Time for a node or an actor to end: on a node that shuts down, trials may end before Ray does."""
NIL = b"\xff"
RAY_S_OWN = "_ray_internal"
"""Prefix of the namespaces of a head's own jobs."""
COORDINATOR = "AutoscalingCoordinator"
"""Train starts this actor once for a whole cluster, and never ends it."""


def rooms(address: str) -> list[Room]:
    """Returns the nodes that are alive, with their total and free resources."""
    found = ask(address, "GetAllNodeInfo").node_info_list
    answer = ask(address, "GetAllAvailableResources", "NodeResourceInfo")
    free = {each.node_id: dict(each.resources_available) for each in answer.resources_list}
    leaving = _leaving(address)
    return [
        Room(
            info.node_id.hex(),
            dict(info.resources_total),
            free.get(info.node_id, {}),
            is_leaving=info.node_id.hex() in leaving,
        )
        for info in found
        if info.state == ALIVE
    ]


def lost_under(address: str, job_id: str, trial_key: str, attempt: int) -> set[str]:
    """Returns the lost nodes on which an attempt ran. Empty if the head itself is lost."""
    import grpc

    try:
        return lost_among(address, places_of(address, job_id, trial_key, attempt))
    except grpc.RpcError:  # `ray_watchdog` reports a lost head
        return set()


def lost_among(address: str, nodes: Collection[str]) -> set[str]:
    """Returns those of `nodes` that are dead, no longer answer, or are about to be shut down by the cloud.

    The head waits half a minute before it declares a silent node dead. Trials on the node fail much earlier.
    """
    lost = _not_there(address, nodes)
    if nodes and not lost:
        time.sleep(GOES_SECONDS)
        lost = _not_there(address, nodes)
    return lost


def _not_there(address: str, nodes: Collection[str]) -> set[str]:
    if not nodes:
        return set()
    selectors = [{"node_id": bytes.fromhex(node)} for node in nodes]
    found = ask(address, "GetAllNodeInfo", node_selectors=selectors).node_info_list
    alive = {info.node_id.hex() for info in found if info.state == ALIVE and _answers(info)}
    return set(nodes) - (alive - _leaving(address))


def places_of(address: str, job_id: str, trial_key: str, attempt: int) -> set[str]:
    """Returns the nodes on which processes of an attempt run or ran; empty if the attempt has not begun."""
    prefix = place_key(job_id, trial_key, attempt).encode()
    keys = ask(address, "InternalKVKeys", "InternalKV", prefix=prefix, namespace=PLACES.encode()).results
    return {key.removeprefix(prefix).decode() for key in keys}


def _leaving(address: str) -> set[str]:
    answer = ask(address, "GetDrainingNodes", "NodeResourceInfo")
    return {node.node_id.hex() for node in answer.draining_nodes}


def _answers(info: Any) -> bool:
    place = info.node_manager_address, info.node_manager_port
    try:
        socket.create_connection(place, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def num_unplaced(address: str, job_id: str) -> int:
    """Counts the pending placement groups of a job, and removes groups whose owner is dead.

    A placement group outlives its owner, and would hold its resources until the job ends.
    """
    ours = _groups(address, job_id)
    _give_back(address, filter(_is_orphan, ours))
    return sum(group.state != PLACED and not _is_orphan(group) for group in ours)


def _groups(address: str, job_id: str) -> list[Any]:
    found = ask(address, "GetAllPlacementGroup", "PlacementGroupInfo").placement_group_table_data
    return [each for each in found if each.creator_job_id.hex() == job_id and each.state != REMOVED]


def _give_back(address: str, groups: Iterable[Any]) -> None:
    for group in groups:
        group_id = group.placement_group_id
        ask(address, "RemovePlacementGroup", "PlacementGroupInfo", placement_group_id=group_id)


def _is_orphan(group: Any) -> bool:
    """Says whether a group's owner is dead. Groups of the driver, such as Tune's, have no owner."""
    return group.creator_actor_dead and bool(group.creator_actor_id.strip(NIL))


def end_what_outlives(address: str, job_id: str) -> None:
    """Ends the detached actors of a job. The actor that all jobs share ends only if no other job runs."""
    import grpc

    try:
        running = ask(address, "GetAllJobInfo", "JobInfo").job_info_list
        is_alone = all(
            job.is_dead or job.job_id.hex() == job_id or job.config.ray_namespace.startswith(RAY_S_OWN)
            for job in running
        )
        places = {"key": place_key(job_id).encode(), "namespace": PLACES.encode(), "del_by_prefix": True}
        ask(address, "InternalKVDel", "InternalKV", **places)
        for actor in _actors(address, job_id):
            if actor.is_detached and (is_alone or actor.name != COORDINATOR):
                end = {"actor_id": actor.actor_id, "force_kill": True, "no_restart": True}
                ask(address, "KillActorViaGcs", "ActorInfo", **end)
    except grpc.RpcError:  # the cluster is gone
        return


def give_back_places(address: str, job_id: str) -> None:
    """Removes the placement groups of a job whose driver has disconnected.

    Ray also removes groups, but a process of the job may request another group before it ends.
    """
    import grpc

    until = time.monotonic() + GOES_SECONDS
    try:
        while any(not actor.is_detached for actor in _actors(address, job_id)) and time.monotonic() < until:
            time.sleep(0.1)
        _give_back(address, _groups(address, job_id))
    except grpc.RpcError:  # the cluster is gone
        return


def _actors(address: str, job_id: str) -> list[Any]:
    filters = {"job_id": bytes.fromhex(job_id)}
    found = ask(address, "GetAllActorInfo", "ActorInfo", filters=filters).actor_table_data
    return [actor for actor in found if actor.state != DEAD]
