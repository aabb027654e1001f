"""The nodes that trials can run on: this machine, or a Ray cluster at an address. Does not import Ray."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.cluster.resources import Machine
from trainables.errors import ConfigError
from trainables.shell import command

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray sets this variable in the environment of a job."""
OUR_OWN = ("", "local")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Host names for connections of a machine to itself."""
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, and the resources that the machine offers to Ray."""

    node_id: str
    machine: Machine


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster.

    Attributes:
        address: `host:port` of the head's GCS; empty = no cluster, only this machine.
        nodes: nodes that are alive. A head without cores runs no trials.
        coming: nodes that an autoscaler starts for pending trials.
    """

    address: str
    nodes: tuple[Node, ...]
    coming: tuple[Machine, ...] = ()

    @property
    def num_machines(self) -> int:
        """Number of machines, with the head: the process that watches a trial may run on the head."""
        return len(self.nodes) + len(self.coming)

    @property
    def working(self) -> list[Machine]:
        """The nodes that run trials, now or after the autoscaler has started more nodes."""
        return [*(node.machine for node in self.nodes if node.machine.num_cpus > 0), *self.coming]

    @property
    def is_spread(self) -> bool:
        """Says whether several nodes that are alive run trials."""
        return sum(node.machine.num_cpus > 0 for node in self.nodes) > 1

    @property
    def total(self) -> Machine:
        """The sum of the resources of all nodes that run trials."""
        found = self.working
        return Machine(
            sum(machine.num_cpus for machine in found),
            sum(machine.num_gpus for machine in found),
            sum(machine.memory_gb for machine in found),
            min((m.gpu_memory_gb for m in found if m.num_gpus and m.gpu_memory_gb), default=None),
        )


def one_node(machine: Machine) -> Cluster:
    """Returns a machine as a cluster of one node."""
    return Cluster("", (Node("", machine),))


def cluster_address(given: str | None) -> str | None:
    """Returns the cluster to connect to, as `auto` or `host:port`; None = start Ray on this machine.

    Args:
        given: value of `--address`. None = the value of `RAY_ADDRESS`, which Ray sets for a job.

    Raises:
        ConfigError: the address has another form. The message names the command that accepts this form.
    """
    where = "--address" if given is not None else ADDRESS_VARIABLE
    address = (os.environ.get(ADDRESS_VARIABLE, "") if given is None else given).strip()
    if address in OUR_OWN:
        return None
    if address == "auto" or ((found := _HOST_AND_PORT.fullmatch(address)) and int(found[2]) < 65536):
        return address
    if urlsplit(address).scheme in ("http", "https", "ray"):
        raise ConfigError(
            f"{where} {address}: a sweep runs on a node of the cluster and needs the address of its head, "
            f"HOST:6379 or auto; on another machine, run {command('submit SPACE --address http://HOST:8265')}"
        )
    raise ConfigError(f"{where} {address}: use HOST:PORT of the head (default port 6379), or auto")
