"""All a trainable may ask of the outside world: who it is among the ranks, where to write, how to report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Metrics = Mapping[str, float]
"""`<split>/<system>/<metric>` → value, e.g. `val/probe_joint/macro_auroc`; also `train/*` and `perf/*`."""


class RunContext(Protocol):
    """The surroundings of a trainable. Paths are always local; `device` is `cpu` or `cuda:N`."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    @property
    def device(self) -> str:
        """Where this rank computes."""
        ...

    @property
    def workdir(self) -> Path:
        """Private to this run."""
        ...

    @property
    def store(self) -> Path:
        """Root of everything content-addressed: image caches, activations, embeddings, adapters."""
        ...

    @property
    def resume_from(self) -> Path | None:
        """Checkpoint of an interrupted attempt."""
        ...

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Hands scalars (with `train/epoch`) to whoever runs this. Collective: every rank must call it."""
        ...

    def fetch(self, folder: Path) -> None:
        """Brings a finished folder of the store here, if another machine made it; else it stays missing."""
        ...

    def keep(self, folder: Path) -> None:
        """Offers a finished folder of the store to other machines."""
        ...


@dataclass
class LocalContext:
    """One process, no Ray: keeps what is reported in `reported`."""

    workdir: Path
    store: Path
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    resume_from: Path | None = None
    reported: list[dict[str, float]] = field(default_factory=list)

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Appends the metrics to `reported`."""
        del checkpoint
        self.reported.append(dict(metrics))

    def fetch(self, folder: Path) -> None:
        """Does nothing: this machine is all there is."""

    def keep(self, folder: Path) -> None:
        """Does nothing."""
