"""Options that control how a sweep runs (not which trials it runs), and the command that resumes it."""

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
    """Options of a sweep from the command line, without its search space."""

    name: str | None = None  # None = the space's name and the start time
    num_workers: int | None = None  # None = `execution.num_workers` of the space
    gpus_per_trial: GpuShare = None  # None = `search.gpus_per_trial` of the space
    trainable: str = TRAINABLES["adapt"]
    opens_test: bool = True
    resumes: bool = False  # resume the sweep of this name; its space is in its ledger
    retry_failed: bool = False  # with `resumes`
    memory: TrialMemory | None = None  # planned memory of a worker; None = that of a small encoder
    plan_fingerprint: str | None = None  # fingerprint of the plan file, if one is run
    cluster: Cluster | None = None  # None = a local Ray on this machine
    storage: str | None = None  # URI of the storage for a copy of the sweep


def resume_command(name: str, options: SweepOptions) -> str:
    """Returns the command that resumes a sweep, with the same address and storage."""
    address = f" --address {options.cluster.address}" if options.cluster else ""
    storage = f" --storage {shlex.quote(options.storage)}" if options.storage else ""
    return command(f"sweep --resume {name}{address}{storage}")


def share_machine(space: SearchSpace, options: SweepOptions, device: str | None = None) -> Concurrency:
    """Returns the number of trials that run at once, and the resources of each; see `fit`."""
    return fit(
        options.num_workers or space.base("execution.num_workers"),
        device or space.base("execution.device"),
        cluster=options.cluster,
        num_trials=space.num_trials + space.num_baselines,
        max_concurrent=space.search.max_concurrent,
        gpus_per_trial=options.gpus_per_trial or space.search.gpus_per_trial,
        memory=options.memory,
    )
