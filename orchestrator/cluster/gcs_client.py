"""Asks the head of a cluster for its nodes, without joining the cluster."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import os
import stat
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.nodes import Cluster, Node
from orchestrator.cluster.ray_internals import ALIVE, ask, autoscaler_groups, head_of
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
"""Memory of the smallest GPU with each of Ray's names. The head does not know the memory of GPUs."""
TOKEN_HINT = (
    "copy the token of the head to ~/.ray/auth_token (chmod 600), or set RAY_AUTH_TOKEN_PATH to its file"
)


def look_at(address: str) -> Cluster:
    """Returns the cluster at an address: its nodes and their resources.

    Args:
        address: `host:port`, or `auto` for the cluster that runs on this machine.

    Raises:
        ClusterError: the head does not answer, refuses the token, or runs another version of Ray.
    """
    import grpc

    check_token(address)
    address = find_head(address)
    try:
        version = ask(address, "CheckAlive").ray_version
        found = _alive(address)
    except grpc.RpcError as error:
        raise ClusterError(_explain(address, error)) from error
    check_version(address, version)
    nodes = tuple(map(_node, found))
    return Cluster(address, nodes, still_to_come(address, [node.machine for node in nodes]))


def still_to_come(address: str, there: Sequence[Machine]) -> tuple[Machine, ...]:
    """Returns the nodes that an autoscaler may start in addition to the nodes in `there`."""
    import grpc

    try:
        found = autoscaler_groups(address)
    except grpc.RpcError:
        found = ()
    return nodes_to_come(there, groups=[NodeGroup(dict(each.resources), each.max_count) for each in found])


def _alive(address: str) -> list[Any]:
    """Returns the nodes that are alive. A head that has just started has none yet: waits for the first."""
    until = time.monotonic() + START_SECONDS
    while True:
        found = [info for info in ask(address, "GetAllNodeInfo").node_info_list if info.state == ALIVE]
        if found or time.monotonic() > until:
            return found
        time.sleep(0.2)


def is_alive(address: str, node_id: str) -> bool:
    """Says whether the head of a cluster answers and reports that a node is alive."""
    import grpc

    selectors = [{"node_id": bytes.fromhex(node_id)}]
    try:
        found = ask(address, "GetAllNodeInfo", node_selectors=selectors).node_info_list
    except grpc.RpcError:
        return False
    return any(info.state == ALIVE for info in found)


def find_head(address: str) -> str:
    """Returns the `host:port` of the head at an address, which may be `auto`."""
    try:
        return head_of(address)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: {error}. Start a cluster (ray start --head), or name HOST:PORT of its head"
        ) from error


def check_version(address: str, theirs: str) -> None:
    """Raises ClusterError if a cluster runs another version of Ray than this process."""
    from ray import __version__ as ours

    if theirs != ours:
        raise ClusterError(
            f"the cluster at {address} runs Ray {theirs}, but this machine has Ray {ours}; install "
            f"the version of the cluster (pip install 'ray[default,tune,train]=={theirs}')"
        )


def check_token(address: str) -> None:
    """Raises ClusterError if there is no token. Makes the token's file readable only by its user."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.is_file() or not path.read_bytes().strip():
        raise ClusterError(
            f"the cluster at {address} needs a token, and {path} is missing or empty; {TOKEN_HINT}"
        )
    found = path.stat()
    if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
        with suppress(OSError):  # a mounted secret cannot be changed
            path.chmod(0o600)  # Ray writes a file that everybody on the machine can read


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
        return f"the cluster at {address} refuses this token; {TOKEN_HINT}"
    host, _, port = address.rpartition(":")
    return (
        f"no cluster answers at {address} ({error.code().name.lower()}): check that its head "
        f"runs (ray start --head --port={port}), and that this machine reaches port {port} of {host}. From "
        "another network, submit over SSH: ssh -L 8265:127.0.0.1:8265 HEAD, then "
        + command("submit SPACE --address http://127.0.0.1:8265")
    )


START_SECONDS = 10.0
"""Longest wait for the first node of a cluster, which a head registers shortly after its start."""
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""File on the head with the settings of `ray up`, as JSON."""
GB_PER_CORE = 2.0
"""Memory per core of a node whose settings do not give the memory."""
MOST_OF_A_GROUP = 100
"""Maximum number of nodes to expect from a group without a limit."""


@dataclass(frozen=True)
class NodeGroup:
    """A kind of node that an autoscaler, such as KubeRay's, has registered with the head."""

    resources: Mapping[str, float]
    max_count: int  # negative: no limit

    @property
    def most(self) -> int:
        """The maximum number of nodes to expect from this group."""
        return MOST_OF_A_GROUP if self.max_count < 0 else min(self.max_count, MOST_OF_A_GROUP)


def nodes_to_come(
    there: Sequence[Machine], settings: Path = BOOTSTRAP, groups: Sequence[NodeGroup] = ()
) -> tuple[Machine, ...]:
    """Returns the nodes that the cluster's autoscaler may still start; empty without an autoscaler.

    Args:
        there: nodes that are alive. Each counts as one of the allowed nodes of its kind.
        settings: file that `ray up` wrote on the head for its autoscaler; read only if `groups` is empty.
        groups: kinds of node that an autoscaler has registered with the head.
    """
    most = None
    if not groups:
        try:
            found: dict[str, Any] = json.loads(settings.expanduser().read_text())
            kinds: dict[str, dict[str, Any]] = dict(found["available_node_types"])
            kinds.pop(found["head_node_type"], None)
            groups = [
                NodeGroup(k.get("resources") or {}, int(k.get("max_workers", 0))) for k in kinds.values()
            ]
            most = int(found.get("max_workers", 2))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return ()  # no autoscaler, or one with other settings
    machines = ((_machine(group.resources), group.most) for group in groups)
    allowed = [machine for machine, number in machines if machine.num_cpus for _ in range(number)]
    coming = _without(sorted(allowed, key=lambda machine: -machine.num_gpus), there)
    return tuple(coming if most is None else coming[: max(0, most - len(allowed) + len(coming))])


def _without(allowed: Sequence[Machine], there: Sequence[Machine]) -> list[Machine]:
    """Returns the allowed nodes that have not started yet."""
    alive = Counter((machine.num_cpus, machine.num_gpus) for machine in there)
    coming: list[Machine] = []
    for machine in allowed:
        kind = machine.num_cpus, machine.num_gpus
        if alive[kind] > 0:
            alive[kind] -= 1
        else:
            coming.append(machine)
    return coming


def _machine(resources: Mapping[str, float]) -> Machine:
    cpus = int(resources.get("CPU", 0))
    memory_gb = resources["memory"] / 2**30 if "memory" in resources else GB_PER_CORE * cpus
    return Machine(cpus, int(resources.get("GPU", 0)), memory_gb)
