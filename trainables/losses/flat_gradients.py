# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""One buffer under all gradients of a step: `backward` adds to it, one all-reduce sums it over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.losses.collectives import Group


class FlatGradients:
    """Lends every parameter a `.grad` that is a view into a flat buffer, until `commit` or `withdraw`.

    No copy is made for the all-reduce, and gradients that stood there before are untouched until `commit`.
    Parameters of several dtypes get a buffer each.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list({id(parameter): parameter for parameter in parameters}.values())
        self._before = [parameter.grad for parameter in self._parameters]
        self._buffers: list[Tensor] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in self._parameters):
            members = [parameter for parameter in self._parameters if parameter.dtype == dtype]
            sizes = [parameter.numel() for parameter in members]
            buffer = torch.zeros(sum(sizes), dtype=dtype, device=members[0].device)
            for parameter, part in zip(members, buffer.split(sizes), strict=True):
                # In the parameter's own layout, or autograd would copy convolutions in channels-last.
                parameter.grad = part.as_strided(parameter.shape, parameter.stride())
            self._buffers.append(buffer)

    def clear(self) -> None:
        """Forgets what was accumulated, for another attempt at the same step."""
        for buffer in self._buffers:
            buffer.zero_()

    def sum_over_ranks(self, group: Group) -> bool:
        """Sums every gradient over the ranks and says whether all are finite, alike on all ranks. Collective.

        A sum and not a mean: the loss divides by the global batch already, so uneven shares need no
        correction.
        """
        for buffer in self._buffers:
            group.sum(buffer)
        return all(bool(torch.linalg.vector_norm(buffer).isfinite()) for buffer in self._buffers)

    def commit(self) -> None:
        """Adds the gradients that the parameters had before; from here on `.grad` is the caller's."""
        for parameter, before in zip(self._parameters, self._before, strict=True):
            if before is not None and parameter.grad is not None:
                parameter.grad.add_(before)

    def withdraw(self) -> None:
        """Puts back the gradients that the parameters had before."""
        for parameter, before in zip(self._parameters, self._before, strict=True):
            parameter.grad = before
