"""What a trial needs and how many fit on this machine at once. Decided before Ray or torch is imported."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.errors import ClusterError
from trainables.training.hardware import gpu_memory_gb, usable_gpus

LIBRARIES_GB = 0.8
"""What a process takes before any encoder: torch, transformers, PEFT, scikit-learn and Ray (0.6 measured)."""
TRIAL_MEMORY_GB = 2.0
"""What a trial on a CPU may take where its encoder is not known: one such as lite0-minilm, and its batch."""
SHARE_OF_MEMORY = 0.8
SHARE_OF_GPU_MEMORY = 0.9
"""What trials that share a GPU may plan with; the rest is the driver's, and fragments."""
MOST_ON_A_GPU = 8
"""Beyond this, trials take turns on its multiprocessors and none gets on faster."""

GpuShare = float | Literal["auto"] | None
"""`gpus_per_trial`: None = a whole GPU for each worker; `auto`: trials share one where they fit into it."""
LEAST_FOR_GRAPHS_GB = 0.25


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    num_cpus: int
    num_gpus: int
    memory_gb: float
    gpu_memory_gb: float | None = None  # of the smallest one; none = not known


@dataclass(frozen=True)
class TrialMemory:
    """What one worker of the largest trial takes, in GiB.

    Attributes:
        resident: libraries, weights, optimiser, and a forward pass.
        graphs: of its share of a batch, if there is room; less is taken in turns.
        least: of `graphs`, for a single pair.
    """

    resident: float = TRIAL_MEMORY_GB - LEAST_FOR_GRAPHS_GB
    graphs: float = LEAST_FOR_GRAPHS_GB
    least: float = LEAST_FOR_GRAPHS_GB


@dataclass(frozen=True)
class Concurrency:
    """How trials share the machine. `reason` is one line for the user."""

    max_concurrent: int
    cpus_per_trial: int
    gpus_per_trial: float
    device: Literal["cpu", "cuda"]
    reason: str
    memory_budget_gb: float | None = None  # of one worker, for graphs; none = what its GPU has free
    num_workers: int = 1  # processes of one trial
    spans_nodes: bool = False  # they may stand on several machines of a cluster

    @property
    def num_cpus(self) -> int:
        """CPU cores over all trials."""
        return self.max_concurrent * self.cpus_per_trial

    @property
    def num_gpus(self) -> int:
        """GPUs over all trials; one that takes a fraction never spans two."""
        if 0 < self.gpus_per_trial < 1:
            return math.ceil(self.max_concurrent / int(1 / self.gpus_per_trial))
        return round(self.max_concurrent * self.gpus_per_trial)


def this_machine() -> Machine:
    """Returns the cores, GPUs and memory that this process is allowed, not what the host has."""
    num_gpus = usable_gpus()
    return Machine(_usable_cpus(), num_gpus, _usable_memory_gb(), gpu_memory_gb() if num_gpus else None)


def fit(
    num_workers: int,
    device: str = "auto",
    *,
    num_trials: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_trial: GpuShare = None,
    memory: TrialMemory | None = None,
    machine: Machine | None = None,
) -> Concurrency:
    """Returns how many trials run at once, and with what.

    With GPUs a worker takes one, or a trial of one worker the fraction asked for; else trials share the
    cores. Many trials of one core beat one trial of many cores: small models gain little from threads.

    Args:
        num_workers: processes of one trial.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        num_trials: no more than this many will ever wait; none = many.
        max_concurrent: upper limit that the user sets.
        gpus_per_trial: a fraction lets trials share a GPU, `auto` where they fit; else `num_workers`.
        memory: of a worker; none = that of a small encoder.
        machine: none = this one.

    Raises:
        ClusterError: the machine cannot give one trial what it needs.
    """
    machine = machine or this_machine()
    if device == "cuda" and machine.num_gpus == 0:
        raise ClusterError(
            "execution.device=cuda: this machine offers no GPU to torch (none in nvidia-smi, none left by "
            "CUDA_VISIBLE_DEVICES, or a CPU build of torch); use --set execution.device=cpu"
        )
    memory = memory or TrialMemory()
    wanted = max(1, min(value for value in (num_trials, max_concurrent, 1_000_000) if value is not None))
    if device == "cpu" or machine.num_gpus == 0:
        return _fit_cpu(num_workers, wanted, machine, memory)
    return _fit_gpu(num_workers, wanted, machine, gpus_per_trial, memory)


def _fit_cpu(num_workers: int, wanted: int, machine: Machine, memory: TrialMemory) -> Concurrency:
    if num_workers > machine.num_cpus:
        raise ClusterError(
            f"--workers {num_workers}: this machine has {counted(machine.num_cpus, 'CPU core')} and a "
            f"worker takes one; use --workers {machine.num_cpus} or fewer"
        )
    usable = machine.memory_gb * SHARE_OF_MEMORY / num_workers
    by_memory = max(1, int(usable / (memory.resident + memory.least)))
    by_cores = min(wanted, machine.num_cpus // num_workers)
    num = min(by_cores, by_memory)
    cpus = machine.num_cpus // num
    found = f"{counted(machine.num_cpus, 'CPU core')}, no GPU in use"
    reason = f"{found}: {_at_once(num)} with {counted(cpus, 'core')} each"
    if num < by_cores:
        needed = (memory.resident + memory.least) * num_workers
        reason += f", as each takes {needed:.1f} of {machine.memory_gb:.1f} GB of memory"
    budget = max(usable / num - memory.resident, memory.least)
    return Concurrency(num, cpus, 0.0, "cpu", reason, memory_budget_gb=budget, num_workers=num_workers)


def _fit_gpu(
    num_workers: int, wanted: int, machine: Machine, share: GpuShare, memory: TrialMemory
) -> Concurrency:
    check_share(share, num_workers)
    if num_workers > machine.num_gpus:
        raise ClusterError(
            f"--workers {num_workers}: this machine has {counted(machine.num_gpus, 'GPU')} and a worker "
            f"takes one; use --workers {machine.num_gpus} or fewer, or --set execution.device=cpu"
        )
    gpus, why = settle_share(share, num_workers, machine, memory, num_gpus=machine.num_gpus, wanted=wanted)
    on_gpus = machine.num_gpus * int(1 / gpus) if gpus < 1 else machine.num_gpus // num_workers
    num = min(wanted, on_gpus, max(1, machine.num_cpus // num_workers))
    cpus = max(1, machine.num_cpus // num)
    found = f"{counted(machine.num_gpus, 'GPU')}, {counted(machine.num_cpus, 'CPU core')}"
    reason = f"{found}: {_at_once(num)} with {gpus:g} GPU each{why}"
    budget = memory_when_shared(gpus, machine, memory)
    return Concurrency(num, cpus, gpus, "cuda", reason, memory_budget_gb=budget, num_workers=num_workers)


def check_share(share: GpuShare, num_workers: int) -> None:
    """Raises ClusterError for GPUs that the workers of a trial could not use."""
    if share is None or isinstance(share, str) or share == num_workers:
        return
    if num_workers == 1 and 0 < share < 1:
        return
    raise ClusterError(
        f"gpus_per_trial={share:g} with --workers {num_workers}: each worker takes one GPU, and only a "
        "trial of one worker may take a fraction"
    )


def settle_share(
    share: GpuShare, num_workers: int, machine: Machine, memory: TrialMemory, *, num_gpus: int, wanted: int
) -> tuple[float, str]:
    """Returns what a trial takes of GPUs, and why where that is not what was asked for.

    A fraction grows where the trials that share a GPU would not fit into its memory. `auto` becomes one
    where the planned memory of several trials, with all their graphs, fits.

    Args:
        share: as asked for.
        num_workers: of a trial; several never share.
        machine: with the smallest GPU.
        memory: of a worker.
        num_gpus: over all machines.
        wanted: trials; no more are put on a GPU than there are.
    """
    gpu = machine.gpu_memory_gb
    if share is None or num_workers > 1:
        return float(num_workers), ""
    if not isinstance(share, str):
        if share >= 1 or gpu is None:
            return share, ""
        needed = memory.resident + memory.least
        gpus = max(share, _share_of(max(int(gpu / needed), 1)))
        why = f" rather than {share:g}, as each takes {needed:.1f} of its {gpu:.1f} GB"
        return gpus, why if gpus > share else ""
    if gpu is None:
        return 1.0, ", as the memory of a GPU is not known (gpus_per_trial=auto)"
    needed = memory.resident + memory.graphs
    fitting = int(gpu * SHARE_OF_GPU_MEMORY / needed)
    num = max(1, min(fitting, machine.num_cpus // machine.num_gpus, MOST_ON_A_GPU, -(-wanted // num_gpus)))
    return _share_of(num), f", as each takes at most {needed:.1f} of its {gpu:.1f} GB (gpus_per_trial=auto)"


def _share_of(num: int) -> float:
    """Returns the fraction that so many trials take, rounded down as Ray would round it."""
    return int(10_000 / num) / 10_000


def memory_when_shared(gpus: float, machine: Machine, memory: TrialMemory) -> float | None:
    """Returns a trial's share of a GPU for its graphs; None where it has the GPU to itself, and measures.

    Trials that start together on one GPU would each take what they find free.
    """
    if gpus >= 1 or machine.gpu_memory_gb is None:
        return None
    each = machine.gpu_memory_gb * SHARE_OF_GPU_MEMORY / int(1 / gpus)
    return max(each - memory.resident, memory.least)


def _at_once(num: int) -> str:
    return f"{counted(num, 'trial')} at once"


def counted(number: int, noun: str) -> str:
    """Reads as `1 trial` or `2 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _usable_cpus() -> int:
    try:
        num = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        num = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return num
    return num if quota == "max" else max(1, min(num, int(quota) // int(period)))


def _usable_memory_gb() -> float:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(total, total if limit == "max" else int(limit)) / 2**30
