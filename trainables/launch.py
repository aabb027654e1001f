"""Runs one trainable without Ray: finds the rank of this process, joins the process group, writes metrics."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from trainables import TRAINABLES, resolve
from trainables.artifacts import write_atomically
from trainables.config import TrialConfig
from trainables.context import LocalContext, Metrics
from trainables.errors import ClusterError, ConfigError

# Imports inside functions: torch takes seconds to load, and checks do not need it.

TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for a busy rank, such as rank 0, which scores val. NCCL's default is 10 minutes."""

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Makes the workers of one machine connect over loopback, which other machines cannot reach."""
ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Lets freed GPU memory hold tensors of any size, so a smaller micro-batch fits after a larger one failed."""


@dataclass(frozen=True)
class Place:
    """The rank of a process, among all processes and among those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    is_launched: bool = False  # torchrun started this process and tells the ranks where to connect

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Returns the ranks that torchrun set. Without torchrun, this process is the only one."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            return cls(*(int(environment[name]) for name in names), is_launched=True)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"environment: torchrun sets {', '.join(names)}; found: {error}") from error

    def device_kind(self, wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
        """Returns the kind of device for every rank: one GPU for each rank, or the CPU."""
        if wanted == "cpu":
            return "cpu"
        import torch

        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if num_gpus >= self.local_world_size:
            return "cuda"
        if wanted == "cuda":
            raise ClusterError(
                f"execution.device=cuda: {num_gpus} GPUs on this machine for {self.local_world_size} "
                "ranks, which need one each; start fewer ranks, or set execution.device=cpu"
            )
        return "cpu"

    def device(self, kind: Literal["cpu", "cuda"]) -> str:
        """Returns the device of this rank, such as `cuda:0`."""
        return f"cuda:{self.local_rank}" if kind == "cuda" else "cpu"


@contextmanager
def process_group(device: str, **how: Any) -> Iterator[None]:
    """Joins the default process group, and leaves it at the end. Collective.

    After an error the group is not destroyed: with NCCL that would wait for ranks that wait for this one.

    Args:
        device: device of this rank. It decides the backend.
        how: arguments of `init_process_group`, such as where the ranks connect.
    """
    import torch
    import torch.distributed as distributed

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT, **how)
    yield
    distributed.destroy_process_group()


@dataclass
class RecordingContext(LocalContext):
    """A context whose rank 0 writes each report to `workdir/metrics.jsonl`, and prints to standard error.

    A resumed run reports its earlier epochs again. So it starts a new file, which holds each epoch once.
    """

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Writes the metrics, and prints the epoch with its losses and AUROCs."""
        super().report(metrics, checkpoint)
        if self.rank != 0:
            return
        with (self.workdir / "metrics.jsonl").open("a" if len(self.reported) > 1 else "w") as file:
            file.write(json.dumps({key: float(value) for key, value in metrics.items()}) + "\n")
        shown = {key: value for key, value in metrics.items() if key.endswith(("loss", "macro_auroc"))}
        text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items())
        print(f"epoch {metrics.get('train/epoch', len(self.reported)):.0f}  {text}", file=sys.stderr)


def run_recorded(trainable: str, config: TrialConfig, context: LocalContext) -> None:
    """Runs a trainable. Rank 0 writes the returned metrics to `workdir/metrics.json`. Collective."""
    metrics = resolve(TRAINABLES[trainable])(config, context)
    if context.rank == 0:
        write_atomically(context.workdir / "metrics.json", json.dumps(dict(metrics), indent=1))
