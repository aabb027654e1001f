"""Counts the bytes that autograd graphs keep for their backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def saved_bytes(not_counted: Iterable[Tensor] = ()) -> Iterator[list[int]]:
    """Counts the bytes that graphs built in the `with` block keep for their backward pass.

    Each storage counts once. The weights in `not_counted` do not count, because they always need memory.
    """
    seen = {_identity(tensor) for tensor in not_counted}
    total, alive = [0], list[Tensor]()

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in seen:
            seen.add(_identity(tensor))
            alive.append(tensor)  # kept, or its address could be used again
            total[0] += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def _identity(tensor: Tensor) -> int:
    """Returns the address of a tensor's storage, or of the storage object on the meta device."""
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata
