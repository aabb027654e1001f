# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""The collectives of a global-batch step, on plain `torch.distributed`; no-ops with one process.

No autograd passes through any of them: what crosses between ranks is embeddings, one number per row, and the
summed gradient of the parameters.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class OutOfMemory(RuntimeError):
    """A phase ran out of memory on this rank or on another; raised on every rank."""


class PeerFailed(RuntimeError):
    """Another rank failed in this phase; its own message says why."""


class _Outcome(IntEnum):
    """How a phase ended; the higher value prevails over the ranks."""

    DONE = 0
    OUT_OF_MEMORY = 1
    FAILED = 2


SAYS_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",  # the host
    "alloc_failed",  # cuBLAS and cuDNN, whose workspaces are their own
    "allocation_failed",
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in message for words in SAYS_OUT_OF_MEMORY)


def free_memory() -> None:
    """Returns freed blocks to the device. Call it once the error, whose frames hold tensors, is gone."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not used


@dataclass(frozen=True)
class Group:
    """The ranks that share a global batch: the default process group, or this process alone."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> Group:
        """Returns the default group; its backend communicates from `device` (NCCL: this rank's GPU)."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def together(self, phase: Callable[[], Result]) -> Result:
        """Runs a phase without collectives and makes every rank end it the same way. Collective.

        A rank that failed alone would leave the others waiting in their next collective for ever.

        Raises:
            OutOfMemory: on every rank, if any ran out of memory.
            PeerFailed: if another rank failed otherwise; the failing rank raises its own error.
        """
        result, error, outcome = None, None, _Outcome.DONE
        try:
            result = phase()
        except Exception as caught:
            outcome = _Outcome.OUT_OF_MEMORY if is_out_of_memory(caught) else _Outcome.FAILED
            # The traceback's frames hold the very tensors that must be freed before another attempt.
            error = caught.with_traceback(None) if outcome is _Outcome.OUT_OF_MEMORY else caught
        (worst,) = self.maximum(outcome)
        if worst == _Outcome.FAILED:
            raise (
                error
                if outcome is _Outcome.FAILED and error
                else PeerFailed("another rank failed in this step")
            )
        if worst == _Outcome.OUT_OF_MEMORY:
            raise OutOfMemory(str(error) if error else "another rank ran out of memory")
        return result  # pyright: ignore[reportReturnType]  # DONE, so the phase has set it

    def maximum(self, *values: int) -> list[int]:
        """Returns the largest of each value over the ranks. Collective."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def sum(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its sum over the ranks and returns it. Collective."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns log Σ_ranks exp(values), elementwise; a rank without rows passes -inf. Collective."""
        if self.world_size == 1:
            return values
        largest = values.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest + self.sum(torch.exp(values - largest)).log()

    def all_gather(self, rows: Tensor, shares: Sequence[range]) -> Tensor:
        """Returns the rows of all ranks in global order, [total, …]. Collective.

        Args:
            rows: [len(shares[rank]), …]; dtype and trailing shape are equal on all ranks.
            shares: contiguous ranges of the global rows, one a rank, possibly empty.
        """
        if self.world_size == 1:
            return rows
        longest = max(len(share) for share in shares)

        def buffers() -> tuple[Tensor, Tensor]:
            padded = rows.new_zeros(longest, *rows.shape[1:])  # gloo refuses uneven sizes
            padded[: len(rows)] = rows
            return padded, rows.new_empty(self.world_size, longest, *rows.shape[1:])

        padded, gathered = self.together(buffers)
        dist.all_gather(list(gathered.unbind()), padded)
        if all(len(share) == longest for share in shares):
            return gathered.flatten(0, 1)
        pieces = [piece[: len(share)] for piece, share in zip(gathered.unbind(), shares, strict=True)]
        return self.together(lambda: torch.cat(pieces))
