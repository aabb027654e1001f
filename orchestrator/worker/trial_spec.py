"""Messages between the driver and the process of a trial: `TrialSpec` and `TrialRecord`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from orchestrator.cluster.placement import Need
from orchestrator.storage.paths import home
from orchestrator.storage.store import open_storage
from orchestrator.storage.trial_files import TrialFiles
from trainables.config import TrialConfig, from_flat

Cause = Literal[
    "user_error",
    "out_of_memory",
    "diverged",
    "non_finite",
    "crash",
    "process_died",
    "killed_for_memory",
    "disk_full",
    "node_died",
    "storage_failed",
    "unavailable",
]
"""`out_of_memory`: the smallest micro-batch did not fit. `killed_for_memory`: the machine killed the process.
`crash`: an unexpected exception. `process_died`: killed from outside, or crashed in native code."""
DEATHS: tuple[Cause, ...] = ("process_died", "killed_for_memory")
HEAD, SHARE_OF_HEAD = "node:__internal_head__", 0.0001
"""Resource that a process reserves to run on the head node, which is never preempted like a spot node."""
DRIVER_MEMORY_BYTES = 200 * 2**20
"""Memory that the Tune process of a Train trial reserves. It reserves no core, as the workers need all."""


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a process needs to run one trial, as plain values that are sent as JSON.

    With a storage, `workdir` and `store` are relative to the home folder of the node that runs the trial.
    """

    trial_key: str
    attempt: int
    config: dict[str, Any]  # dotted keys
    trainable: str  # "module:function"
    objective: str
    workdir: str
    store: str
    scratch: str  # for Ray's own files
    device: Literal["cpu", "cuda"]
    num_workers: int
    cpus_per_trial: int
    gpus_per_trial: float
    memory_budget_gb: float | None = None
    storage: str | None = None  # URI through which nodes exchange files
    data_fingerprint: str = ""
    model_fingerprint: str | None = None
    captioner_fingerprint: str | None = None
    words_fingerprint: str | None = None
    inputs: dict[str, str] = field(default_factory=dict[str, str])  # place in the storage → fingerprint
    times_killed_for_memory: int = 0  # each halves the memory budget and the micro-batch
    spans_nodes: bool = False  # its workers may run on several nodes
    is_compared: bool = True  # a scheduler may stop it; False for repeats with another seed

    def to_json(self) -> str:
        """Returns the spec as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the spec from the JSON that `to_json` wrote."""
        return cls(**json.loads(text))

    def at_home(self) -> Self:
        """Returns the spec with absolute paths on this node."""
        if self.storage is None:
            return self
        base = home()
        is_shared = Path(self.scratch).is_dir()  # False: the driver is on another machine
        return replace(
            self,
            workdir=str(base / self.workdir),
            store=str(base / self.store),
            scratch=self.scratch if is_shared else str(base / "scratch"),
        )

    def files(self) -> TrialFiles:
        """Returns the object that moves the trial's files. Call it on the result of `at_home`."""
        if self.storage is None:
            return TrialFiles(Path(self.store).parent, Path(self.workdir))
        return TrialFiles(home(), Path(self.workdir), open_storage(self.storage))

    @property
    def trial(self) -> TrialConfig:
        """Returns the configuration, with a memory budget of this machine if the user set no budget."""
        own_size = self.config["execution.micro_batch_size"]  # if set, the user budgets the memory
        budget = self.config["execution.memory_budget_gb"] or (None if own_size else self.memory_budget_gb)
        parts = 2**self.times_killed_for_memory
        execution = {
            "execution.micro_batch_size": own_size and max(1, own_size // parts),
            "execution.memory_budget_gb": budget and budget / parts,
        }
        return from_flat(self.config | execution)

    @property
    def need(self) -> Need:
        """Returns the resources that the workers of the trial request from the nodes."""
        num = self.num_workers
        return Need(num, max(1, self.cpus_per_trial // num), self.gpus_per_trial / num)

    @property
    def num_threads(self) -> int:
        """Returns the number of threads of one worker."""
        return self.config["execution.num_threads"] or max(1, self.cpus_per_trial // self.num_workers)

    def resources(self) -> dict[str, float]:
        """Returns the resources that Tune reserves for its own process of the trial."""
        if self.num_workers > 1:  # this process only waits; Train starts the workers
            return {HEAD: SHARE_OF_HEAD, "memory": DRIVER_MEMORY_BYTES}
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial}


@dataclass(frozen=True)
class TrialRecord:
    """The end of a trial: `metrics` and `results`, or `cause` and `message` of a failure."""

    seconds: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    results: dict[str, str] = field(default_factory=dict[str, str])  # file relative to the workdir → SHA-256
    cause: Cause | None = None
    message: str | None = None
    warnings: list[str] = field(default_factory=list[str])  # problems that the trial survived
