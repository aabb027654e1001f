"""Chooses the micro-batch and the number of kept graphs from a memory budget, by measurement.

Neither changes a result. More graphs kept means fewer rows encoded twice; a larger micro-batch means fewer
calls. The budget goes to graphs, because on a CPU a micro-batch of a few rows is as fast as one of hundreds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from trainables.losses.collectives import OutOfMemory, free_memory, is_out_of_memory
from trainables.models.encoders.saved_bytes import saved_bytes

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Rows = TypeVar("Rows", np.ndarray, list[str])

ROWS_MEASURED = 4
SHARE_OF_FREE_MEMORY = 0.5
"""Of what is free when training starts; the rest is for the optimiser, workspace, and whoever comes after."""
GRAPHS_WANTED = 4
"""A budget that does not hold the whole share is spent on this many, so a replay takes a part of it."""
LARGEST = 256
"""Rows of a micro-batch; more keep no processor busier."""


@dataclass(frozen=True)
class Cut:
    """How this rank takes its share of a batch. `micro_batch_size` none = the whole share at once."""

    micro_batch_size: int | None
    kept_graphs: int


@dataclass(frozen=True)
class TowerCost:
    """Rows of one tower's share, and what the graph of a row holds, in bytes; 0 where it does not train."""

    num_rows: int
    bytes_per_row: float

    @property
    def total(self) -> float:
        """Bytes of all graphs."""
        return self.num_rows * self.bytes_per_row

    def graphs(self, micro_batch_size: int) -> list[float]:
        """Returns the bytes of each graph, in the order in which they are kept; none of a frozen tower."""
        if not self.bytes_per_row:
            return []
        full, tail = divmod(self.num_rows, micro_batch_size)
        return [size * self.bytes_per_row for size in (*[micro_batch_size] * full, *[tail] * (tail > 0))]


def choose_cut(
    budget: float, images: TowerCost, texts: TowerCost, *, micro_batch_size: int | None = None
) -> Cut:
    """Returns the cut whose graphs fit into `budget` bytes, or the smallest one.

    A whole share that fits is the plain step: every row is encoded once. A micro-batch that is given stays.
    """
    if images.total + texts.total <= budget and micro_batch_size is None:
        return Cut(None, 1)
    most = max(images.num_rows, texts.num_rows)
    largest_row = max(images.bytes_per_row, texts.bytes_per_row, 1.0)
    size = micro_batch_size or int(min(max(budget / GRAPHS_WANTED / largest_row, 1), most, LARGEST))
    graphs = [bytes_held for tower in (images, texts) for bytes_held in tower.graphs(size)]
    fitting = sum(total <= budget for total in accumulate(graphs))
    return Cut(size, max(fitting, 1))


def cost_of(
    encode: Callable[[range], Tensor], rows: range, is_trained: bool, weights: Iterable[Tensor]
) -> TowerCost:
    """Measures a tower on its first few rows."""
    if not is_trained or not len(rows):
        return TowerCost(len(rows), 0.0)
    few = rows[:ROWS_MEASURED]
    with torch.enable_grad(), saved_bytes(weights) as saved:
        encode(few)
    return TowerCost(len(rows), saved[0] / len(few))


def memory_budget(device: torch.device, *, budget_gb: float | None, num_sharing: int) -> float:
    """Returns the bytes that graphs may take: as configured, or a share of the free memory.

    Args:
        device: where the towers compute.
        budget_gb: `execution.memory_budget_gb`, for one worker.
        num_sharing: workers that share this machine's memory; a GPU is a worker's own.
    """
    if budget_gb is not None:
        return budget_gb * 2**30
    if device.type == "cuda":
        return SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
    return SHARE_OF_FREE_MEMORY * _free_host_memory() / num_sharing


def _free_host_memory() -> float:
    """Returns bytes; 4 GiB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return 4 * 2**30
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, int(limit) - used)


def with_less_at_once(
    take: Callable[[int], Result], size: int, *, smallest: int = 1, advice: str = ""
) -> tuple[Result, int]:
    """Returns `take(size)` and the size, which an out-of-memory error halves, down to `smallest`.

    Raises:
        OutOfMemory: `smallest` does not fit; the message ends with the advice.
    """
    while True:
        try:
            return take(size), size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= smallest:
                raise OutOfMemory(f"{size} at a time do not fit{advice}: {error}") from None
        size = max(size // 2, smallest)
        free_memory()


def in_pieces(take: Callable[[Rows], Result], rows: Rows, size: int) -> list[Result]:
    """Returns what `take` makes of the rows, piece by piece, with smaller pieces once memory has run out."""
    results: list[Result] = []
    start, size = 0, min(size, len(rows))
    while start < len(rows):
        result, size = with_less_at_once(lambda num, start=start: take(rows[start : start + num]), size)
        results.append(result)
        start += size
    return results
