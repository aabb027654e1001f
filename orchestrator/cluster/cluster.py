"""A Ray cluster that is there: where it is, what its nodes offer, how trials share them. Knows no Ray."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.cluster.placement import CPU, GPU, per_node
from orchestrator.cluster.resources import (
    Concurrency,
    GpuShare,
    Machine,
    TrialMemory,
    check_share,
    counted,
    memory_when_shared,
    settle_share,
)
from trainables.errors import ClusterError, ConfigError
from trainables.shell import command

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray sets it in the environment of a job."""
OUR_OWN = ("", "local")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names under which a machine reaches itself, and nobody else reaches it."""
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, as it offers itself to Ray."""

    node_id: str
    machine: Machine


@dataclass(frozen=True)
class Cluster:
    """What answers at an address.

    Attributes:
        address: `host:port` of the head's GCS.
        nodes: those that are alive; a head that offers no core takes no trial.
        coming: those that an autoscaler starts once trials wait for them.
    """

    address: str
    nodes: tuple[Node, ...]
    coming: tuple[Machine, ...] = ()

    @property
    def num_machines(self) -> int:
        """All there are, the head that takes no trial too: the process that watches a trial stands on it."""
        return len(self.nodes) + len(self.coming)

    @property
    def working(self) -> list[Machine]:
        """The nodes that take trials, now or later."""
        there = [node.machine for node in self.nodes if node.machine.num_cpus > 0]
        return [*there, *self.coming]

    @property
    def is_spread(self) -> bool:
        """Says whether several nodes are there that take trials."""
        return sum(node.machine.num_cpus > 0 for node in self.nodes) > 1

    @property
    def total(self) -> Machine:
        """All nodes that take trials as if they were one."""
        found = self.working
        return Machine(
            sum(machine.num_cpus for machine in found),
            sum(machine.num_gpus for machine in found),
            sum(machine.memory_gb for machine in found),
            min((m.gpu_memory_gb for m in found if m.num_gpus and m.gpu_memory_gb), default=None),
        )


def cluster_address(given: str | None) -> str | None:
    """Returns `auto` or the `host:port` of the cluster to connect to; None = a Ray of our own, here.

    Args:
        given: by `--address`; none = `RAY_ADDRESS`, which Ray sets for a job.

    Raises:
        ConfigError: an address of another kind; says what takes it.
    """
    where = "--address" if given is not None else ADDRESS_VARIABLE
    address = (os.environ.get(ADDRESS_VARIABLE, "") if given is None else given).strip()
    if address in OUR_OWN:
        return None
    if address == "auto" or ((found := _HOST_AND_PORT.fullmatch(address)) and int(found[2]) < 65536):
        return address
    if urlsplit(address).scheme in ("http", "https", "ray"):
        raise ConfigError(
            f"{where} {address}: a sweep runs on a node of the cluster and takes the address of its head, "
            f"HOST:6379 or auto; from elsewhere: {command('submit SPACE --address http://HOST:8265')}"
        )
    raise ConfigError(f"{where} {address}: use HOST:PORT of the head (6379 unless set otherwise), or auto")


def fit_cluster(
    cluster: Cluster,
    num_workers: int,
    device: str = "auto",
    *,
    num_trials: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_trial: GpuShare = None,
    memory: TrialMemory | None = None,
) -> Concurrency:
    """Returns how many trials run at once on a cluster, and with what; see `resources.fit`.

    A worker takes a GPU, or a share of the cores, of one node; the workers of a trial may stand on several.

    Raises:
        ClusterError: its nodes together cannot give one trial what it needs.
    """
    memory, machines = memory or TrialMemory(), cluster.working
    wanted = max(1, min(value for value in (num_trials, max_concurrent, 1_000_000) if value is not None))
    with_gpus = [machine for machine in machines if machine.num_gpus > 0]
    if not machines:
        raise ClusterError(
            f"the cluster at {cluster.address} has {counted(len(cluster.nodes), 'node')} and none offers a "
            "CPU core to trials; add one: ray start --address=HEAD:6379, on another machine"
        )
    if device == "cuda" and not with_gpus:
        raise ClusterError(
            f"execution.device=cuda: the cluster at {cluster.address} has no GPU ({_listed(machines)}); "
            "add a node with one, or use --set execution.device=cpu"
        )
    if device == "cpu" or not with_gpus:
        return _fit_cpus(cluster, machines, num_workers, wanted, memory)
    return _fit_gpus(cluster, with_gpus, num_workers, wanted, gpus_per_trial, memory)


def _fit_cpus(
    cluster: Cluster, machines: list[Machine], num_workers: int, wanted: int, memory: TrialMemory
) -> Concurrency:
    """Cores are what Ray counts, so each worker takes as many as keep its node within its memory."""
    needed = memory.resident + memory.least
    cpus = max(_ceil(m.num_cpus, max(1, int(m.memory_gb / needed))) for m in machines)
    places = _places(machines, cpus)
    if places < num_workers:
        cpus = 1  # memory is tight everywhere: one worker more is better than none
        places = _places(machines, cpus)
    if places < num_workers:
        raise ClusterError(
            f"--workers {num_workers}: the cluster at {cluster.address} has "
            f"{_nodes(cluster, machines, CPU)}, and a worker takes a core; "
            f"use --workers {places} or fewer, or add nodes"
        )
    num = min(wanted, places // num_workers)
    while _places(machines, cpus + 1) >= num * num_workers:
        cpus += 1
    budget = min(m.memory_gb / (m.num_cpus // cpus) for m in machines if m.num_cpus >= cpus) - memory.resident
    each = counted(cpus, "core")
    if num_workers > 1:
        each = f"{num_workers} workers of {each}"
    return Concurrency(
        num,
        cpus * num_workers,
        0.0,
        "cpu",
        f"{_found(cluster, machines)}: {counted(num, 'trial')} at once with {each} each",
        memory_budget_gb=max(budget, memory.least),
        num_workers=num_workers,
        spans_nodes=num_workers > 1 and cluster.num_machines > 1,
    )


def _fit_gpus(
    cluster: Cluster,
    machines: list[Machine],
    num_workers: int,
    wanted: int,
    share: GpuShare,
    memory: TrialMemory,
) -> Concurrency:
    """A worker takes a core beside its GPU, or as many as each GPU of the poorest node has."""
    check_share(share, num_workers)
    poorest = min(machines, key=lambda machine: machine.gpu_memory_gb or 0.0)  # a trial may get any GPU
    gpus, why = settle_share(share, num_workers, poorest, memory, num_gpus=_num_gpus(machines), wanted=wanted)
    per_gpu = int(1 / gpus) if gpus < 1 else 1
    held = [min(m.num_gpus * per_gpu, m.num_cpus) for m in machines]
    if sum(held) < num_workers:
        raise ClusterError(
            f"--workers {num_workers}: the cluster at {cluster.address} has "
            f"{_nodes(cluster, machines, GPU)}, and a worker takes one with a core beside it; use --workers "
            f"{sum(held)} or fewer, or add nodes"
        )
    num = min(wanted, sum(held) // num_workers)
    cpus = min(max(1, m.num_cpus // (m.num_gpus * per_gpu)) for m in machines)
    across = max(0, num - sum(places // num_workers for places in held))
    apart = f", {across} of them across nodes" if across else ""
    return Concurrency(
        num,
        cpus * num_workers,
        gpus,
        "cuda",
        f"{_found(cluster, machines)}: {counted(num, 'trial')} at once with {gpus:g} GPU each{apart}{why}",
        memory_budget_gb=memory_when_shared(gpus, poorest, memory),
        num_workers=num_workers,
        spans_nodes=num_workers > 1 and cluster.num_machines > 1,
    )


def most_workers(cluster: Cluster, num_workers: int, device: str) -> int:
    """Returns how many workers a trial may still have on what is left of a cluster; 0 = no node takes any."""
    machines = [machine for machine in cluster.working if device == "cpu" or machine.num_gpus > 0]
    held = (min(m.num_cpus, m.num_cpus if device == "cpu" else m.num_gpus) for m in machines)
    return min(num_workers, sum(held))


def _num_gpus(machines: list[Machine]) -> int:
    return sum(machine.num_gpus for machine in machines)


def _places(machines: list[Machine], cpus: int) -> int:
    """Returns how many workers of so many cores fit on these nodes."""
    return sum(machine.num_cpus // cpus for machine in machines)


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _found(cluster: Cluster, machines: list[Machine]) -> str:
    num_coming = sum(machine in machines for machine in cluster.coming)
    later = f" ({num_coming} of them to come)" if num_coming else ""
    return f"cluster at {cluster.address}, {_listed(machines)}{later}"


def _nodes(cluster: Cluster, machines: list[Machine], name: str) -> str:
    """Reads as `2 nodes with 2 + 2 GPUs (1 of them to come)`."""
    listed = per_node([{CPU: machine.num_cpus, GPU: machine.num_gpus} for machine in machines], [name])
    num_coming = sum(machine in machines for machine in cluster.coming)
    return f"at most {listed} ({num_coming} of them to come)" if num_coming else listed


def _listed(machines: list[Machine]) -> str:
    """Reads as `2 nodes with 8 CPU cores and 1 GPU`."""
    cpus = counted(sum(machine.num_cpus for machine in machines), "CPU core")
    gpus = sum(machine.num_gpus for machine in machines)
    return f"{counted(len(machines), 'node')} with {cpus}" + (f" and {counted(gpus, 'GPU')}" if gpus else "")
