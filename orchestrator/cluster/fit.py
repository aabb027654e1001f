"""Decides how many trials run at once, and with which resources. Imports neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cluster.nodes import Cluster, one_node
from orchestrator.cluster.placement import NOUNS, Need, per_node
from orchestrator.cluster.resources import (
    CPU,
    GPU,
    Concurrency,
    GpuShare,
    Machine,
    TrialMemory,
    counted,
    this_machine,
)
from trainables.errors import ClusterError

SHARE_OF_MEMORY = 0.8
"""Fraction of this machine's memory for trials. On a cluster, trials get all memory offered to Ray."""
SHARE_OF_GPU_MEMORY = 0.9
"""Fraction of GPU memory for trials that share a GPU. The rest is for the GPU driver and fragmentation."""
MOST_ON_A_GPU = 8
"""Maximum number of trials on a GPU. More trials would take turns, so a sweep would not be faster."""


def fit(
    num_workers: int,
    device: str = "auto",
    *,
    cluster: Cluster | None = None,
    num_trials: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_trial: GpuShare = None,
    memory: TrialMemory | None = None,
) -> Concurrency:
    """Returns how many trials run at once, and the resources of each trial.

    Each worker runs on one node and gets a core. If there are GPUs, each worker also gets a GPU; a trial of
    one worker may get a fraction of a GPU. Without GPUs, trials share the cores. Small models gain little
    from threads, so many trials with one core each are faster than one trial with many cores.

    Args:
        num_workers: number of processes of one trial.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        cluster: nodes that run the trials; None = this machine.
        num_trials: number of trials of the sweep; None = many.
        max_concurrent: upper limit that the user sets.
        gpus_per_trial: GPUs of a trial. With a fraction or `auto`, trials share a GPU. None = `num_workers`.
        memory: memory of one worker; None = memory for a small encoder.

    Raises:
        ClusterError: all nodes together have too few resources for one trial.
    """
    cluster, memory = cluster or one_node(this_machine()), memory or TrialMemory()
    machines = _usable(cluster, num_workers, device)
    uses_gpus = device != "cpu" and machines[0].num_gpus > 0
    wanted = max(1, min(value for value in (num_trials, max_concurrent, 1_000_000) if value is not None))
    poorest = min(machines, key=lambda machine: machine.gpu_memory_gb or 0.0)  # a trial may get any GPU
    gpus, why = 0.0, ""
    if uses_gpus:
        num_gpus = sum(machine.num_gpus for machine in machines)
        gpus, why = _settle_share(gpus_per_trial, num_workers, poorest, memory, num_gpus, wanted)

    def places(cpus: int) -> list[int]:
        need = Need(1, cpus, min(gpus, 1.0))
        return [need.places(machine.amounts) for machine in machines]

    usable = [m.memory_gb * (1.0 if cluster.address else SHARE_OF_MEMORY) for m in machines]
    cpus, most = (1, sum(places(1))) if uses_gpus else _within_memory(machines, usable, memory)
    num = min(wanted, min(sum(places(cpus)), most) // num_workers)
    if not uses_gpus and num < min(wanted, sum(places(1)) // num_workers):
        why = ", limited by the memory of a trial"
    if num == 0:  # one trial with too little memory is better than none
        num, cpus = 1, 1
    while sum(places(cpus + 1)) >= num * num_workers:
        cpus += 1
    if uses_gpus:
        budget = _memory_when_shared(gpus, poorest, memory)
    else:
        held = [min(number, num * num_workers) for number in places(cpus)]
        least = min(gigabytes / number for gigabytes, number in zip(usable, held, strict=True) if number)
        budget = max(least - memory.resident, memory.least)
    found = _found(cluster, machines, uses_gpus)
    across = num - sum(number // num_workers for number in places(cpus))
    apart = f", {across} of them across nodes" if across > 0 else ""
    each = f"{gpus:g} GPU" if uses_gpus else counted(cpus, "core")
    if num_workers > 1 and not uses_gpus:
        each = f"{num_workers} workers of {each}"
    return Concurrency(
        num,
        cpus * num_workers,
        gpus,
        "cuda" if uses_gpus else "cpu",
        f"{found}: {counted(num, 'trial')} at once with {each} each{apart}{why}",
        memory_budget_gb=budget,
        num_workers=num_workers,
        spans_nodes=num_workers > 1 and cluster.num_machines > 1,
    )


def _within_memory(
    machines: Sequence[Machine], usable: Sequence[float], memory: TrialMemory
) -> tuple[int, int]:
    """Returns the minimum cores of a worker and the maximum number of workers that the memory allows.

    Ray counts cores, but not memory. On several nodes, each worker therefore takes so many cores that no node
    runs out of memory. On one node, the number of trials is limited instead.
    """
    most = [max(1, int(gigabytes / (memory.resident + memory.least))) for gigabytes in usable]
    cpus = max(-(-m.num_cpus // number) for m, number in zip(machines, most, strict=True))
    return cpus if len(machines) > 1 else 1, sum(most)


def most_workers(cluster: Cluster, num_workers: int, device: str) -> int:
    """Returns how many workers a trial can have on a cluster, at most `num_workers`; 0 = none fits."""
    held = (min(m.num_cpus, m.num_cpus if device == "cpu" else m.num_gpus) for m in cluster.working)
    return min(num_workers, sum(held))


def _usable(cluster: Cluster, num_workers: int, device: str) -> list[Machine]:
    """Returns the nodes that can run trials on a device. If trials use GPUs, these are nodes with GPUs."""
    machines = cluster.working
    with_gpus = [machine for machine in machines if machine.num_gpus > 0]
    if not machines:
        raise ClusterError(
            f"the cluster at {cluster.address} has {counted(len(cluster.nodes), 'node')} and none offers a "
            "CPU core to trials; add a node: on another machine, run ray start --address=HEAD:6379"
        )
    if device == "cuda" and not with_gpus:
        raise ClusterError(
            f"execution.device=cuda: the cluster at {cluster.address} has no GPU ({_listed(machines)}); "
            "add a node with a GPU, or use --set execution.device=cpu"
            if cluster.address
            else f"execution.device=cuda: this machine offers no GPU to torch ("
            f"{machines[0].gpu_trouble or 'no driver, none in CUDA_VISIBLE_DEVICES, or a CPU build of torch'}"
            "); use --set execution.device=cpu"
        )
    uses_gpus = bool(with_gpus) and device != "cpu"
    machines = with_gpus if uses_gpus else machines
    most = most_workers(cluster, num_workers, "cuda" if uses_gpus else "cpu")
    if most < num_workers:
        name, amounts = GPU if uses_gpus else CPU, [machine.amounts for machine in machines]
        has = f"this machine has {counted(int(amounts[0][name]), NOUNS[name])}"
        if cluster.address:
            coming = _coming(cluster, machines)
            most_of = "at most " if coming else ""
            has = f"the cluster at {cluster.address} has {most_of}{per_node(amounts, [name])}{coming}"
        raise ClusterError(
            f"--workers {num_workers}: {has}, and each worker takes a core{' and a GPU' * uses_gpus}; "
            f"use --workers {most} or fewer{', or add nodes' * bool(cluster.address)}"
            f"{', or --set execution.device=cpu' * uses_gpus}"
        )
    return machines


def _settle_share(
    share: GpuShare, num_workers: int, machine: Machine, memory: TrialMemory, num_gpus: int, wanted: int
) -> tuple[float, str]:
    """Returns the number of GPUs of one trial, and why this number differs from the setting.

    A fraction is raised if the trials that share a GPU would exceed the memory of the GPU. `auto` becomes a
    fraction if several trials with all their graphs fit into the memory of a GPU.
    """
    gpu = machine.gpu_memory_gb
    if share is None or num_workers > 1:
        if share not in (None, "auto", num_workers):
            raise ClusterError(
                f"gpus_per_trial={share} with --workers {num_workers}: each worker takes one GPU, and only a "
                "trial of one worker may take a fraction"
            )
        return float(num_workers), ""
    if not isinstance(share, str):
        if share >= 1 or gpu is None:
            return share, ""
        gpus = max(share, _share_of(max(int(gpu / (memory.resident + memory.least)), 1)))
        return gpus, f" rather than {share:g}, limited by the memory of a GPU" if gpus > share else ""
    if gpu is None:
        return 1.0, ", as the memory of a GPU is not known (gpus_per_trial=auto)"
    fitting = int(gpu * SHARE_OF_GPU_MEMORY / (memory.resident + memory.graphs))
    num = max(1, min(fitting, machine.num_cpus // machine.num_gpus, MOST_ON_A_GPU, -(-wanted // num_gpus)))
    return _share_of(num), " (gpus_per_trial=auto)"


def _share_of(num: int) -> float:
    """Returns the fraction of a GPU for each of `num` trials, rounded down to Ray's precision."""
    return int(10_000 / num) / 10_000


def _memory_when_shared(gpus: float, machine: Machine, memory: TrialMemory) -> float | None:
    """Returns the GPU memory for the graphs of a trial, in GiB; None if the trial does not share a GPU.

    Without this limit, trials that start together on one GPU would each take all free memory.
    """
    if gpus >= 1 or machine.gpu_memory_gb is None:
        return None
    each = machine.gpu_memory_gb * SHARE_OF_GPU_MEMORY / int(1 / gpus)
    return max(each - memory.resident, memory.least)


def _found(cluster: Cluster, machines: Sequence[Machine], uses_gpus: bool) -> str:
    if cluster.address:
        return f"cluster at {cluster.address}, {_listed(machines)}{_coming(cluster, machines)}"
    machine = machines[0]
    cores = counted(machine.num_cpus, "CPU core")
    if uses_gpus:
        return f"{counted(machine.num_gpus, 'GPU')}, {cores}"
    return f"{cores}, no GPU in use{f' ({machine.gpu_trouble})' if machine.gpu_trouble else ''}"


def _coming(cluster: Cluster, machines: Sequence[Machine]) -> str:
    num_coming = sum(machine in machines for machine in cluster.coming)
    return f" ({num_coming} of them not started yet)" if num_coming else ""


def _listed(machines: Sequence[Machine]) -> str:
    """Returns text such as `2 nodes with 8 CPU cores and 1 GPU`."""
    cpus = counted(sum(machine.num_cpus for machine in machines), "CPU core")
    gpus = sum(machine.num_gpus for machine in machines)
    return f"{counted(len(machines), 'node')} with {cpus}" + (f" and {counted(gpus, 'GPU')}" if gpus else "")
