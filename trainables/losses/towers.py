# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""One tower's share of a global batch: embedded without graph, then again with one for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from trainables.losses.batch_plan import tiles


class PairEncoder(Protocol):
    """How a trainable encodes rows of the global batch.

    Calls must repeat themselves: a row is encoded without graph and again with one, and both must give the
    same embedding. Dropout masks therefore come from counters (seed, step, module, row), not from a running
    generator.
    """

    @property
    def trains_images(self) -> bool:
        """False: the image tower is frozen and never encoded twice."""
        ...

    @property
    def trains_texts(self) -> bool:
        """False: the text tower is frozen and never encoded twice."""
        ...

    def encode_images(self, rows: range) -> Tensor:
        """Returns unit-length embeddings [len(rows), D] of these positions in the global batch."""
        ...

    def encode_texts(self, rows: range) -> Tensor:
        """Returns unit-length embeddings [len(rows), D] of these places in the list of distinct captions."""
        ...


class Tower:
    """This rank's rows of one tower in one step (gradient caching, Gao et al. 2021, arXiv:2101.06983, §3).

    Args:
        encode: rows → embeddings [len(rows), D].
        rows: this rank's share.
        is_trained: whether gradients go through.
        micro_batch_size: rows per forward; none = the whole share.
        dtype: what the encoder computes in; none = what its embeddings come in.
    """

    def __init__(
        self,
        encode: Callable[[range], Tensor],
        rows: range,
        *,
        is_trained: bool,
        micro_batch_size: int | None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.encode = encode
        self.dtype = dtype
        self.rows = rows
        self.is_trained = is_trained
        # The short one comes first, so that the graphs kept are full ones.
        self.without_graph = list(tiles(rows, micro_batch_size or max(1, len(rows))))[::-1]
        self.with_graph: list[range] = []
        self.graphs: list[tuple[range, Tensor]] = []
        self.embedded = torch.empty(0, 0)

    def keep(self, num_graphs: int) -> int:
        """Makes up to so many micro-batches keep the graph of their first forward; returns how many do."""
        num_kept = min(num_graphs, len(self.without_graph)) if self.is_trained else 0
        first_kept = len(self.without_graph) - num_kept
        self.with_graph = self.without_graph[first_kept:]
        del self.without_graph[first_kept:]
        return num_kept

    def embed(self) -> Tensor:
        """Returns detached embeddings of the share [b, D], float32 or float64; [0, 0] where it is empty."""
        with torch.no_grad():
            for rows in self.without_graph:
                self._store(rows, self.encode(rows))
        with torch.enable_grad():
            for rows in self.with_graph:
                self.graphs.append((rows, self.encode(rows)))
                self._store(*self.graphs[-1])
        return self.embedded

    def backward_kept(self, gradient: Tensor) -> None:
        """Sends the gradient [b, D] through the graphs that were kept, and frees them."""
        while self.graphs:
            self._backward(*self.graphs.pop(), gradient)

    def replay(self, gradient: Tensor) -> None:
        """Encodes the other micro-batches again, with graph, and sends the gradient [b, D] through.

        Raises:
            RuntimeError: an encoder does not repeat itself, so that the gradient would be silently wrong.
        """
        for rows in self.without_graph if self.is_trained else ():
            with torch.enable_grad():
                embeddings = self.encode(rows)
            check_repeated(embeddings.detach(), self.embedded[self._own(rows)], self.dtype)
            self._backward(rows, embeddings, gradient)

    def _own(self, rows: range) -> slice:
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def _store(self, rows: range, embeddings: Tensor) -> None:
        if not len(self.embedded):
            dtype = torch.promote_types(embeddings.dtype, torch.float32)
            self.embedded = embeddings.new_empty(len(self.rows), embeddings.shape[1], dtype=dtype)
        self.embedded[self._own(rows)] = embeddings.detach()

    def _backward(self, rows: range, embeddings: Tensor, gradient: Tensor) -> None:
        torch.autograd.backward(embeddings, gradient[self._own(rows)].to(embeddings.dtype))


def check_repeated(again: Tensor, embedded: Tensor, dtype: torch.dtype | None = None) -> None:
    """Compares a second encoding with the first; kernels with and without graph may round differently."""
    eps = torch.finfo(dtype or again.dtype).eps
    bound = min(64 * eps**0.75, 0.05)  # of unit vectors
    difference = float((again.to(embedded.dtype) - embedded).norm(dim=1).max())
    if difference > bound:
        raise RuntimeError(
            f"an encoder gave another embedding when asked again (difference {difference:.2g}): dropout "
            "without counters, or a layer with batch statistics in train mode"
        )
