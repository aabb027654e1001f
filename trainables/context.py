"""The interface between a trainable and its surroundings: its rank, its folders, its reports."""

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
        """The rank of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """The number of processes."""
        ...

    @property
    def device(self) -> str:
        """The device on which this rank computes."""
        ...

    @property
    def workdir(self) -> Path:
        """The folder of this run. No other run uses it."""
        ...

    @property
    def store(self) -> Path:
        """The folder of content-addressed files: image caches, activations, embeddings, adapters."""
        ...

    @property
    def resume_from(self) -> Path | None:
        """The checkpoint of an interrupted attempt, or None."""
        ...

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Reports scalars, with `train/epoch`, to the caller. Collective: every rank must call it."""
        ...

    def fetch(self, folder: Path) -> None:
        """Fetches a finished store folder that another machine made, if there is one."""
        ...

    def keep(self, folder: Path) -> None:
        """Makes a finished store folder available to other machines."""
        ...


@dataclass
class LocalContext:
    """The context of a process without Ray. It keeps all reports in `reported`."""

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
        """Does nothing, because there are no other machines."""

    def keep(self, folder: Path) -> None:
        """Does nothing, because no other machine needs the folder."""
