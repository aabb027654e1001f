# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""Collective operations of a global-batch step on `torch.distributed`; with one process they do nothing.

No autograd graph passes through them. The ranks exchange embeddings, one number per row, and the sum of the
gradients of the parameters.
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
    """This rank or another one ran out of memory; every rank raises this error."""


class PeerFailed(RuntimeError):
    """Another rank failed; the message of that rank gives the reason."""


class _Outcome(IntEnum):
    """The outcome of a phase; the highest value of all ranks counts."""

    DONE = 0
    OUT_OF_MEMORY = 1
    FAILED = 2


SAYS_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",  # the host
    "could not create a primitive",  # oneDNN, on the host
    "alloc_failed",  # cuBLAS and cuDNN: they allocate their own workspaces
    "allocation_failed",
    "unable to find an engine",  # cuDNN, if no algorithm's workspace fits
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the GPU or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in message for words in SAYS_OUT_OF_MEMORY)


def free_memory() -> None:
    """Returns freed memory to the device. Delete the error first: its traceback holds tensors."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if CUDA was not used


@dataclass(frozen=True)
class Group:
    """The ranks that process one global batch: the default process group, or only this process."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> Group:
        """Returns the default group, which communicates from `device` (with NCCL: this rank's GPU)."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def together(self, phase: Callable[[], Result]) -> Result:
        """Runs a phase without collectives, and makes all ranks succeed or fail together. Collective.

        If one rank failed alone, the others would wait forever in their next collective.

        Raises:
            OutOfMemory: on every rank, if any rank ran out of memory.
            PeerFailed: another rank failed for another reason; that rank raises its own error.
        """
        result, error, outcome = None, None, _Outcome.DONE
        try:
            result = phase()
        except Exception as caught:
            outcome = _Outcome.OUT_OF_MEMORY if is_out_of_memory(caught) else _Outcome.FAILED
            # The traceback holds tensors that must be freed before the next attempt.
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
        """Returns, for each value, its maximum over the ranks. Collective."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def sum(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor with its sum over the ranks, and returns the tensor. Collective."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns log Σ_ranks exp(values) per element; a rank without rows passes -inf. Collective."""
        if self.world_size == 1:
            return values
        largest = values.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest + self.sum(torch.exp(values - largest)).log()

    def all_gather(self, rows: Tensor, shares: Sequence[range]) -> Tensor:
        """Returns the rows of all ranks in global order, [total, …]. Collective.

        Args:
            rows: [len(shares[rank]), …]; all ranks use the same dtype and the same shape of a row.
            shares: contiguous ranges of the global rows, one per rank; a range may be empty.
        """
        if self.world_size == 1:
            return rows
        longest = max(len(share) for share in shares)

        def buffers() -> tuple[Tensor, Tensor]:
            padded = rows.new_zeros(longest, *rows.shape[1:])  # gloo does not support different sizes
            padded[: len(rows)] = rows
            return padded, rows.new_empty(self.world_size, longest, *rows.shape[1:])

        padded, gathered = self.together(buffers)
        dist.all_gather(list(gathered.unbind()), padded)
        if all(len(share) == longest for share in shares):
            return gathered.flatten(0, 1)
        pieces = [piece[: len(share)] for piece, share in zip(gathered.unbind(), shares, strict=True)]
        return self.together(lambda: torch.cat(pieces))
