"""Connects the workers of one machine through a file, so that no worker opens a network port.

Ray's default is torch's TCP store, which listens on every address of the machine.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class FileBackend(_TorchBackend):
    """Ray's torch backend, with a file as the rendezvous."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Joins all workers into one process group."""
        assert isinstance(backend_config, FileTorchConfig)
        world_size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, join_group, backend_config, rank, world_size)
                for rank in range(world_size)
            ]
        )


@dataclass
class FileTorchConfig(TorchConfig):
    """`TorchConfig` for one machine. No other process group may use the file `path`."""

    path: str = ""

    @property
    def backend_cls(self) -> type[FileBackend]:
        """Returns the backend class that Ray Train starts."""
        return FileBackend


def join_group(config: FileTorchConfig, rank: int, world_size: int) -> None:
    """Joins this worker to the process group. Collective: every rank must call it."""
    dist.init_process_group(
        config.backend,
        init_method=f"file://{config.path}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=config.timeout_s),
    )
