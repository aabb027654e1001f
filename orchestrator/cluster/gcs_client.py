"""Asks the head of a cluster what it is and has, without joining it: quick, and it leaves no trace there."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.nodes import Cluster, Node
from orchestrator.cluster.ray_internals import ALIVE, ask, autoscaler_groups, head_of, messages
from orchestrator.cluster.resources import Machine
from trainables.errors import ClusterError
from trainables.shell import command

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

GPU_MEMORY_GB = {
    "T4": 15.0,
    "V100": 15.8,
    "A10G": 22.0,
    "L4": 22.0,
    "L40S": 44.0,
    "A100": 39.0,
    "A100-40G": 39.0,
    "A100-80G": 79.0,
    "H100": 79.0,
    "H200": 139.0,
}
"""By Ray's name of a node's GPUs, of the smallest that bears it; a head does not know what they have."""
TOKEN_HINT = (
    "copy the token of its head to ~/.ray/auth_token (chmod 600), or name its file in RAY_AUTH_TOKEN_PATH"
)


def look_at(address: str) -> Cluster:
    """Returns what answers at an address: its nodes and what they offer.

    Args:
        address: `host:port`, or `auto` for what runs on this machine.

    Raises:
        ClusterError: nothing answers, a wrong token or none, another version of Ray.
    """
    import grpc

    check_token(address)
    address = find_head(address)
    try:
        version = ask(address, "CheckAlive", messages().CheckAliveRequest()).ray_version
        found = ask(address, "GetAllNodeInfo", messages().GetAllNodeInfoRequest()).node_info_list
    except grpc.RpcError as error:
        raise ClusterError(_explain(address, error)) from error
    check_version(address, version)
    nodes = tuple(_node(info) for info in found if info.state == ALIVE)
    return Cluster(address, nodes, still_to_come(address, [node.machine for node in nodes]))


def still_to_come(address: str, there: Sequence[Machine]) -> tuple[Machine, ...]:
    """Returns the nodes that an autoscaler may start beside those that are there."""
    return nodes_to_come(there, groups=node_groups(address))


def node_groups(address: str) -> list[NodeGroup]:
    """Returns the kinds of node that an autoscaler has told a head of; most tell none."""
    import grpc

    try:
        found = autoscaler_groups(address)
    except grpc.RpcError:
        return []
    return [NodeGroup(dict(group.resources), group.max_count) for group in found]


def is_alive(address: str, node_id: str) -> bool:
    """Says whether the head of a cluster answers, and counts a node among the living."""
    import grpc

    request = messages().GetAllNodeInfoRequest()
    request.node_selectors.add(node_id=bytes.fromhex(node_id))
    try:
        found = ask(address, "GetAllNodeInfo", request).node_info_list
    except grpc.RpcError:
        return False
    return any(info.state == ALIVE for info in found)


def find_head(address: str) -> str:
    """Returns the `host:port` that Ray makes of an address.

    Raises:
        ClusterError: `auto`, and no cluster or several run on this machine; a host without an address.
    """
    try:
        return head_of(address)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: {error}. Start a cluster (ray start --head), or name HOST:PORT of its head"
        ) from error


def check_version(address: str, theirs: str) -> None:
    """Raises ClusterError where a cluster runs another version of Ray than this process."""
    from ray import __version__ as ours

    if theirs != ours:
        raise ClusterError(
            f"the cluster at {address} runs Ray {theirs}, and this is Ray {ours}; install the same here "
            f"(pip install 'ray[default,tune,train]=={theirs}'), or this one there"
        )


def check_token(address: str) -> None:
    """Makes sure that there is a token to show, and that its file is the user's alone.

    Raises:
        ClusterError: there is none.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.is_file() or not path.read_bytes().strip():
        raise ClusterError(
            f"the cluster at {address}: no token to show it ({path} is missing or empty); {TOKEN_HINT}"
        )
    found = path.stat()
    if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
        with suppress(OSError):  # a secret that is mounted
            path.chmod(0o600)  # Ray writes it so that everybody on the machine can read it


def _node(info: Any) -> Node:
    has = dict(info.resources_total)
    kinds = [name.partition(":")[2] for name in has if name.startswith("accelerator_type:")]
    machine = Machine(
        int(has.get("CPU", 0)),
        int(has.get("GPU", 0)),
        has.get("memory", 0) / 2**30,
        GPU_MEMORY_GB.get(kinds[0]) if kinds else None,
    )
    return Node(info.node_id.hex(), machine)


def _explain(address: str, error: Any) -> str:
    import grpc

    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return f"the cluster at {address} does not take this token; {TOKEN_HINT}"
    host, _, port = address.rpartition(":")
    return (
        f"no cluster answers at {address} ({error.code().name.lower()}): is its head running there "
        f"(ray start --head --port={port}), and port {port} of {host} reachable from here? From outside its "
        "network submit over SSH: ssh -L 8265:127.0.0.1:8265 HEAD, then "
        + command("submit SPACE --address http://127.0.0.1:8265")
    )


BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves its settings on the head, as JSON."""
GB_PER_CORE = 2.0
"""Where the settings do not tell a node's memory."""
MOST_OF_A_GROUP = 100
"""Nodes that are counted on, where a group has no limit."""


@dataclass(frozen=True)
class NodeGroup:
    """A kind of node that an autoscaler has told the head of, as KubeRay's does."""

    resources: Mapping[str, float]
    max_count: int  # negative: no limit


def nodes_to_come(
    there: Sequence[Machine], settings: Path = BOOTSTRAP, groups: Sequence[NodeGroup] = ()
) -> tuple[Machine, ...]:
    """Returns the nodes that the autoscaler of this cluster may start for trials that wait, if it has one.

    Args:
        there: nodes that are alive; each takes the place of one of its kind.
        settings: of an autoscaler that `ray up` started, on this head.
        groups: what the head was told; where there are some, `settings` are not read.
    """
    if groups:
        return tuple(_without([m for group in groups for m in _of_group(group)], there))
    try:
        found: dict[str, Any] = json.loads(settings.expanduser().read_text())
        allowed = _allowed(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()  # no autoscaler, or one that is told otherwise
    coming = _without(allowed, there)
    return tuple(coming[: max(0, int(found.get("max_workers", 2)) - (len(allowed) - len(coming)))])


def _without(allowed: Sequence[Machine], there: Sequence[Machine]) -> list[Machine]:
    """Returns the nodes that may run and do not."""
    alive = Counter((machine.num_cpus, machine.num_gpus) for machine in there)
    coming: list[Machine] = []
    for machine in allowed:
        kind = machine.num_cpus, machine.num_gpus
        if alive[kind] > 0:
            alive[kind] -= 1
        else:
            coming.append(machine)
    return coming


def _of_group(group: NodeGroup) -> list[Machine]:
    cpus, gpus = int(group.resources.get("CPU", 0)), int(group.resources.get("GPU", 0))
    memory_gb = group.resources.get("memory", GB_PER_CORE * cpus * 2**30) / 2**30
    number = MOST_OF_A_GROUP if group.max_count < 0 else min(group.max_count, MOST_OF_A_GROUP)
    return [Machine(cpus, gpus, memory_gb)] * number if cpus else []


def _allowed(settings: dict[str, Any]) -> list[Machine]:
    """Returns every worker that may run at once by its own type, those with GPUs first."""
    machines: list[Machine] = []
    kinds: dict[str, dict[str, Any]] = settings["available_node_types"]
    for name, kind in kinds.items():
        has: dict[str, float] = kind.get("resources") or {}
        cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if name == settings["head_node_type"] or cpus == 0:
            continue
        memory_gb = has["memory"] / 2**30 if "memory" in has else GB_PER_CORE * cpus
        machines += [Machine(cpus, gpus, memory_gb)] * int(kind.get("max_workers", 0))
    return sorted(machines, key=lambda machine: -machine.num_gpus)
