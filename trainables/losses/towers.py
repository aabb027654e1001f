# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""Encodes one tower's rows of a global batch: first without a graph, then with a graph for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from trainables.losses.batch_plan import tiles


class PairEncoder(Protocol):
    """The interface through which a trainable encodes rows of the global batch.

    Equal calls must return equal embeddings, because a row is encoded without a graph and again with one.
    Dropout masks therefore depend on (seed, step, module, row), not on the state of a random generator.
    """

    @property
    def trains_images(self) -> bool:
        """Returns whether the image tower trains; a frozen tower is encoded only once."""
        ...

    @property
    def trains_texts(self) -> bool:
        """Returns whether the text tower trains; a frozen tower is encoded only once."""
        ...

    def encode_images(self, rows: range) -> Tensor:
        """Returns unit-length embeddings [len(rows), D] of these images of the global batch."""
        ...

    def encode_texts(self, rows: range) -> Tensor:
        """Returns unit-length embeddings [len(rows), D] of these rows of the distinct captions."""
        ...


class Tower:
    """One tower's rows on this rank in one step (gradient caching, Gao et al. 2021, arXiv:2101.06983, §3).

    Args:
        encode: function of rows that returns embeddings [len(rows), D].
        rows: the rows of this rank.
        is_trained: whether the tower needs gradients.
        micro_batch_size: rows per forward pass; None = all rows.
        dtype: dtype of the encoder; None = the dtype of its embeddings.
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
        # The shorter micro-batch comes first, so that the kept graphs are full ones.
        self.without_graph = list(tiles(rows, micro_batch_size or max(1, len(rows))))[::-1]
        self.with_graph: list[range] = []
        self.graphs: list[tuple[range, Tensor]] = []
        self.embedded = torch.empty(0, 0)

    def keep(self, num_graphs: int) -> int:
        """Makes up to `num_graphs` micro-batches keep their first graph; returns how many do."""
        num_kept = min(num_graphs, len(self.without_graph)) if self.is_trained else 0
        first_kept = len(self.without_graph) - num_kept
        self.with_graph = self.without_graph[first_kept:]
        del self.without_graph[first_kept:]
        return num_kept

    def embed(self) -> Tensor:
        """Returns detached embeddings of the rows [b, D], float32 or float64; [0, 0] without rows."""
        with torch.no_grad():
            for rows in self.without_graph:
                self._store(rows, self.encode(rows))
        with torch.enable_grad():
            for rows in self.with_graph:
                self.graphs.append((rows, self.encode(rows)))
                self._store(*self.graphs[-1])
        return self.embedded

    def backward_kept(self, gradient: Tensor) -> None:
        """Backpropagates the gradient [b, D] through the kept graphs, and frees the graphs."""
        while self.graphs:
            self._backward(*self.graphs.pop(), gradient)

    def replay(self, gradient: Tensor) -> None:
        """Encodes the other micro-batches again with a graph, and backpropagates the gradient [b, D].

        Raises:
            RuntimeError: the second encoding differs from the first, so the gradient would be wrong.
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
    """Checks that a second encoding equals the first, up to the rounding of different kernels."""
    eps = torch.finfo(dtype or again.dtype).eps
    bound = min(64 * eps**0.75, 0.05)  # of unit vectors
    difference = float((again.to(embedded.dtype) - embedded).norm(dim=1).max())
    if difference > bound:
        raise RuntimeError(
            f"an encoder returned another embedding for the same input (difference {difference:.2g}): "
            "dropout without counters, or a layer with batch statistics in train mode"
        )
