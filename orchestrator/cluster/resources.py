"""Resources of machines, memory of trials, concurrency of sweeps. Imports neither Ray nor torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.training.hardware import find_gpus, gpu_memory_gb, usable_gpus

CPU, GPU = "CPU", "GPU"
"""Ray's names of the resources of a node."""
LIBRARIES_GB = 0.8
"""Memory of a process without encoder: torch, transformers, PEFT, scikit-learn and Ray (0.6 measured)."""
TRIAL_MEMORY_GB = 2.0
"""Memory of a CPU trial with an unknown encoder. This is enough for lite0-minilm and a batch."""

GpuShare = float | Literal["auto"] | None
"""`gpus_per_trial`: None = one GPU for each worker; `auto` = trials share a GPU if they fit."""
LEAST_FOR_GRAPHS_GB = 0.25


@dataclass(frozen=True)
class Machine:
    """The resources that one machine offers to trials."""

    num_cpus: int
    num_gpus: int
    memory_gb: float
    gpu_memory_gb: float | None = None  # of the smallest GPU; None = unknown
    gpu_trouble: str = ""  # why torch cannot use a GPU whose driver is installed

    @property
    def amounts(self) -> dict[str, float]:
        """Cores and GPUs by Ray's names."""
        return {CPU: self.num_cpus, GPU: self.num_gpus}


@dataclass(frozen=True)
class TrialMemory:
    """Memory of one worker of the largest trial, in GiB.

    Attributes:
        resident: libraries, weights, optimiser and a forward pass.
        graphs: graphs of the worker's part of a batch. With less memory, the worker uses micro-batches.
        least: graph of a single pair.
    """

    resident: float = TRIAL_MEMORY_GB - LEAST_FOR_GRAPHS_GB
    graphs: float = LEAST_FOR_GRAPHS_GB
    least: float = LEAST_FOR_GRAPHS_GB


@dataclass(frozen=True)
class Concurrency:
    """Number of trials at once, and the resources of each trial. `reason` explains these to the user."""

    max_concurrent: int
    cpus_per_trial: int
    gpus_per_trial: float
    device: Literal["cpu", "cuda"]
    reason: str
    memory_budget_gb: float | None = None  # for the graphs of one worker; None = all free GPU memory
    num_workers: int = 1  # processes of one trial
    spans_nodes: bool = False  # the workers of one trial may run on several nodes

    @property
    def num_cpus(self) -> int:
        """CPU cores of all running trials together."""
        return self.max_concurrent * self.cpus_per_trial

    @property
    def num_gpus(self) -> int:
        """GPUs of all running trials together. A fraction always belongs to one GPU."""
        if 0 < self.gpus_per_trial < 1:
            return math.ceil(self.max_concurrent / int(1 / self.gpus_per_trial))
        return round(self.max_concurrent * self.gpus_per_trial)


def this_machine() -> Machine:
    """Returns the cores, GPUs and memory that this process may use, which can be less than the host has."""
    trouble = find_gpus().trouble
    return Machine(_usable_cpus(), usable_gpus(), _usable_memory_gb(), gpu_memory_gb(), trouble)


def counted(number: int, noun: str) -> str:
    """Returns text such as `1 trial` or `2 trials`."""
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
