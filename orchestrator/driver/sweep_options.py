"""How a sweep runs, beside what it tries; and what resumes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from orchestrator.cluster.fit import fit
from orchestrator.cluster.nodes import Cluster
from orchestrator.cluster.resources import Concurrency, GpuShare, TrialMemory
from orchestrator.search.space import SearchSpace
from trainables import TRAINABLES
from trainables.shell import command


@dataclass(frozen=True)
class SweepOptions:
    """What the command line says of a sweep, beside its search space."""

    name: str | None = None  # None = the space's name and the start time
    num_workers: int | None = None  # None = `execution.num_workers` of the space
    gpus_per_trial: GpuShare = None  # None = `search.gpus_per_trial` of the space
    trainable: str = TRAINABLES["adapt"]
    opens_test: bool = True
    resumes: bool = False  # the sweep of this name, whose space is in its ledger
    retry_failed: bool = False  # with `resumes`
    memory: TrialMemory | None = None  # of a worker, as planned; None = that of a small encoder
    plan_fingerprint: str | None = None  # of the plan file that is run
    cluster: Cluster | None = None  # None = a Ray of our own on this machine
    storage: str | None = None  # URI of the copy that is kept beside this machine's


def resume_command(name: str, options: SweepOptions) -> str:
    """Returns the command that resumes a sweep, with the address and the storage that it was given."""
    address = f" --address {options.cluster.address}" if options.cluster else ""
    storage = f" --storage {shlex.quote(options.storage)}" if options.storage else ""
    return command(f"sweep --resume {name}{address}{storage}")


def share_machine(space: SearchSpace, options: SweepOptions, device: str | None = None) -> Concurrency:
    """Returns how many trials run at once, and what each of them gets; see `fit`."""
    return fit(
        options.num_workers or space.base("execution.num_workers"),
        device or space.base("execution.device"),
        cluster=options.cluster,
        num_trials=space.num_trials + space.num_baselines,
        max_concurrent=space.search.max_concurrent,
        gpus_per_trial=options.gpus_per_trial or space.search.gpus_per_trial,
        memory=options.memory,
    )
