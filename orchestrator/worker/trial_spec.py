"""What the driver sends to the process of a trial, and what comes back."""

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
"""`out_of_memory`: its smallest piece did not fit. `killed_for_memory`: the machine ended the process.
`crash`: an exception that none foresaw. `process_died`: killed from outside, or crashed in native code."""
DEATHS: tuple[Cause, ...] = ("process_died", "killed_for_memory")
HEAD, SHARE_OF_HEAD = "node:__internal_head__", 0.0001
"""What a process reserves to run on the head, which is never preempted as a spot node is."""
DRIVER_MEMORY_BYTES = 200 * 2**20
"""What the Tune process of a Train trial reserves: no core, or it would hold one that its workers need."""


@dataclass(frozen=True)
class TrialSpec:
    """All that a process needs to run one trial, in plain values; sent as JSON.

    With a storage, `workdir` and `store` are relative to the home of the node that runs the trial.
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
    inputs: dict[str, str] = field(default_factory=dict[str, str])  # place in the storage → fingerprint
    times_killed_for_memory: int = 0  # each halves the budget, and so the micro-batch; never the global batch
    spans_nodes: bool = False  # its workers may run on several nodes
    is_compared: bool = True  # a scheduler may stop it; a repeat on another seed runs to its end

    def to_json(self) -> str:
        """Returns the spec as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))

    def at_home(self) -> Self:
        """Returns the spec with absolute folders of this node."""
        if self.storage is None:
            return self
        base = home()
        is_shared = Path(self.scratch).is_dir()  # else the driver is on another machine
        return replace(
            self,
            workdir=str(base / self.workdir),
            store=str(base / self.store),
            scratch=self.scratch if is_shared else str(base / "scratch"),
        )

    def files(self) -> TrialFiles:
        """Returns what moves the trial's files; call it on a spec `at_home`."""
        if self.storage is None:
            return TrialFiles(Path(self.store).parent, Path(self.workdir))
        return TrialFiles(home(), Path(self.workdir), open_storage(self.storage))

    @property
    def trial(self) -> TrialConfig:
        """The configuration, with a memory budget of this machine if it sets none."""
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
        """What its workers need of nodes."""
        num = self.num_workers
        return Need(num, max(1, self.cpus_per_trial // num), self.gpus_per_trial / num)

    @property
    def num_threads(self) -> int:
        """Threads of one worker."""
        return self.config["execution.num_threads"] or max(1, self.cpus_per_trial // self.num_workers)

    def resources(self) -> dict[str, float]:
        """Returns what Tune reserves for the trial's own process."""
        if self.num_workers > 1:  # it only watches; Train's own processes stay beside it
            return {HEAD: SHARE_OF_HEAD, "memory": DRIVER_MEMORY_BYTES}
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial}


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended: `metrics` and `results`, or `cause` and `message`."""

    seconds: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    results: dict[str, str] = field(default_factory=dict[str, str])  # file relative to the workdir → SHA-256
    cause: Cause | None = None
    message: str | None = None
    warnings: list[str] = field(default_factory=list[str])  # problems that the trial survived
