"""Chooses the micro-batch size and the number of kept graphs for a memory budget, by measurement.

Neither changes a result. With more kept graphs, fewer rows are encoded twice; with a larger micro-batch,
there are fewer calls. The budget is used for graphs, because on a CPU a micro-batch of a few rows is as fast
as one of hundreds.
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
"""Fraction of the memory free at the start. The optimiser, workspaces and later processes need the rest."""
GRAPHS_WANTED = 4
"""Number of graphs to keep if the budget is too small for all rows; only the other rows are replayed."""
LARGEST = 256
"""Maximum rows of a micro-batch; more rows are not faster."""


@dataclass(frozen=True)
class Cut:
    """How a rank divides its rows of a batch. `micro_batch_size` None = all rows at once."""

    micro_batch_size: int | None
    kept_graphs: int


@dataclass(frozen=True)
class TowerCost:
    """The rows of one tower on this rank, and the bytes of the graph of a row; 0 bytes for a frozen tower."""

    num_rows: int
    bytes_per_row: float

    @property
    def total(self) -> float:
        """Returns the bytes of all graphs."""
        return self.num_rows * self.bytes_per_row

    def graphs(self, micro_batch_size: int) -> list[float]:
        """Returns the bytes of each graph, in the order in which graphs are kept; [] for a frozen tower."""
        if not self.bytes_per_row:
            return []
        full, tail = divmod(self.num_rows, micro_batch_size)
        return [size * self.bytes_per_row for size in (*[micro_batch_size] * full, *[tail] * (tail > 0))]


def choose_cut(
    budget: float, images: TowerCost, texts: TowerCost, *, micro_batch_size: int | None = None
) -> Cut:
    """Returns micro-batch size and kept graphs that fit into `budget` bytes, or the minimum of both.

    If all rows fit, every row is encoded once. A configured micro-batch size is not changed.
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
    """Returns the cost of a tower, measured on its first few rows."""
    if not is_trained or not len(rows):
        return TowerCost(len(rows), 0.0)
    few = rows[:ROWS_MEASURED]
    with torch.enable_grad(), saved_bytes(weights) as saved:
        encode(few)
    return TowerCost(len(rows), saved[0] / len(few))


def memory_budget(device: torch.device, *, budget_gb: float | None, num_sharing: int) -> float:
    """Returns the bytes that graphs may use: as configured, or a fraction of the free memory.

    Args:
        device: device of the towers.
        budget_gb: `execution.memory_budget_gb`, for one worker.
        num_sharing: number of workers that share this machine's memory; a GPU has only one worker.
    """
    if budget_gb is not None:
        return budget_gb * 2**30
    if device.type == "cuda":
        return SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
    return SHARE_OF_FREE_MEMORY * _free_host_memory() / num_sharing


def _free_host_memory() -> float:
    """Returns the free memory in bytes; 4 GiB if the system does not report it."""
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
    """Returns `take(size)` and the size; halves the size after each out-of-memory error, down to `smallest`.

    Raises:
        OutOfMemory: `smallest` does not fit either; the message ends with the advice.
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
    """Returns the results of `take` for pieces of the rows; the pieces get smaller if memory runs out."""
    results: list[Result] = []
    start, size = 0, min(size, len(rows))
    while start < len(rows):
        result, size = with_less_at_once(lambda num, start=start: take(rows[start : start + num]), size)
        results.append(result)
        start += size
    return results
