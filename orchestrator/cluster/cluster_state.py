"""What the head of a cluster knows while a sweep runs: room, lost nodes, what has no place yet."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable
from typing import Any

from orchestrator.cluster.placement import PLACES, Room, place_key
from orchestrator.cluster.ray_internals import ALIVE, DEAD, PLACED, REMOVED, ask, messages

# Imports inside functions: grpc comes with Ray, and loads as slowly.

PROBE_SECONDS = 2.0
GOES_SECONDS = 1.0
"""How long what is ending may still be there: on a node that shuts down, trials may end before Ray does."""
NIL = b"\xff"
RAY_S_OWN = "_ray_internal"
"""How the namespaces of a head's own jobs begin."""
COORDINATOR = "AutoscalingCoordinator"
"""Train starts one for a whole cluster, and leaves it."""


def rooms(address: str) -> list[Room]:
    """Returns the nodes that are alive and what is free on them."""
    found = ask(address, "GetAllNodeInfo", messages().GetAllNodeInfoRequest()).node_info_list
    request = messages().GetAllAvailableResourcesRequest()
    answer = ask(address, "GetAllAvailableResources", request, of="NodeResourceInfo")
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
    """Returns which nodes that an attempt stands on are gone; none where the head is."""
    import grpc

    try:
        return lost_among(address, places_of(address, job_id, trial_key, attempt))
    except grpc.RpcError:  # who waits for the head will see
        return set()


def lost_among(address: str, nodes: Collection[str]) -> set[str]:
    """Returns which of these nodes are dead, are being taken back, or no longer answer.

    A head takes half a minute to give a silent node up; a trial that stood there has failed long before.
    """
    lost = _not_there(address, nodes)
    if nodes and not lost:
        time.sleep(GOES_SECONDS)
        lost = _not_there(address, nodes)
    return lost


def _not_there(address: str, nodes: Collection[str]) -> set[str]:
    request = messages().GetAllNodeInfoRequest()
    for node in nodes:
        request.node_selectors.add(node_id=bytes.fromhex(node))
    found = ask(address, "GetAllNodeInfo", request).node_info_list if nodes else []
    alive = {info.node_id.hex() for info in found if info.state == ALIVE and _answers(info)}
    return set(nodes) - (alive - _leaving(address))


def places_of(address: str, job_id: str, trial_key: str, attempt: int) -> set[str]:
    """Returns the nodes on which processes of an attempt stand, or stood; none = it has not begun."""
    prefix = place_key(job_id, trial_key, attempt).encode()
    request = messages().InternalKVKeysRequest(prefix=prefix, namespace=PLACES.encode())
    keys = ask(address, "InternalKVKeys", request, of="InternalKV").results
    return {key.removeprefix(prefix).decode() for key in keys}


def _leaving(address: str) -> set[str]:
    request = messages().GetDrainingNodesRequest()
    answer = ask(address, "GetDrainingNodes", request, of="NodeResourceInfo")
    return {node.node_id.hex() for node in answer.draining_nodes}


def _answers(info: Any) -> bool:
    place = info.node_manager_address, info.node_manager_port
    try:
        socket.create_connection(place, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def num_unplaced(address: str, job_id: str) -> int:
    """Returns how many of a job's groups of places wait for room; gives those back that nobody will use.

    A group outlives the process that asked for it, and would hold its places until the job ends.
    """
    ours = _groups(address, job_id)
    _give_back(address, filter(_is_orphan, ours))
    return sum(group.state != PLACED and not _is_orphan(group) for group in ours)


def _groups(address: str, job_id: str) -> list[Any]:
    request = messages().GetAllPlacementGroupRequest()
    answer = ask(address, "GetAllPlacementGroup", request, of="PlacementGroupInfo")
    found = answer.placement_group_table_data
    return [each for each in found if each.creator_job_id.hex() == job_id and each.state != REMOVED]


def _give_back(address: str, groups: Iterable[Any]) -> None:
    for group in groups:
        end = messages().RemovePlacementGroupRequest(placement_group_id=group.placement_group_id)
        ask(address, "RemovePlacementGroup", end, of="PlacementGroupInfo")


def _is_orphan(group: Any) -> bool:
    """A driver's own groups, such as Tune's, are no orphans: their owner is nil, and counts as dead."""
    return group.creator_actor_dead and bool(group.creator_actor_id.strip(NIL))


def end_what_outlives(address: str, job_id: str) -> None:
    """Ends the actors of a job that Ray keeps when it leaves; one that jobs share, if it is alone."""
    import grpc

    try:
        running = ask(address, "GetAllJobInfo", messages().GetAllJobInfoRequest(), of="JobInfo").job_info_list
        is_alone = all(
            job.is_dead or job.job_id.hex() == job_id or job.config.ray_namespace.startswith(RAY_S_OWN)
            for job in running
        )
        places = messages().InternalKVDelRequest(
            key=place_key(job_id).encode(), namespace=PLACES.encode(), del_by_prefix=True
        )
        ask(address, "InternalKVDel", places, of="InternalKV")
        for actor in _actors(address, job_id):
            if actor.is_detached and (is_alone or actor.name != COORDINATOR):
                end = messages().KillActorViaGcsRequest(
                    actor_id=actor.actor_id, force_kill=True, no_restart=True
                )
                ask(address, "KillActorViaGcs", end, of="ActorInfo")
    except grpc.RpcError:  # the cluster is gone
        return


def give_back_places(address: str, job_id: str) -> None:
    """Gives back the groups of places of a job that has left.

    Ray does when it leaves, but a process that is ended a moment later may still have asked for another one.
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
    request = messages().GetAllActorInfoRequest()
    request.filters.job_id = bytes.fromhex(job_id)
    found = ask(address, "GetAllActorInfo", request, of="ActorInfo").actor_table_data
    return [actor for actor in found if actor.state != DEAD]
