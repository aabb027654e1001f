# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""One buffer for all gradients of a step: `backward` adds to it, one all-reduce sums it over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.losses.collectives import Group


class FlatGradients:
    """A flat buffer for gradients. Until `commit` or `withdraw`, every `.grad` is a view into this buffer.

    The all-reduce needs no copy, and earlier gradients do not change until `commit`. There is one buffer per
    dtype.
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
                # Views keep the parameter's memory layout, or autograd would copy channels-last convolutions.
                parameter.grad = part.as_strided(parameter.shape, parameter.stride())
            self._buffers.append(buffer)

    def clear(self) -> None:
        """Sets the buffers to zero, for another attempt at the same step."""
        for buffer in self._buffers:
            buffer.zero_()

    def sum_over_ranks(self, group: Group) -> bool:
        """Sums every gradient over the ranks, and returns whether all are finite. Collective.

        The result is a sum, because the loss already divides by the global batch size.
        """
        for buffer in self._buffers:
            group.sum(buffer)
        return all(bool(torch.linalg.vector_norm(buffer).isfinite()) for buffer in self._buffers)

    def commit(self) -> None:
        """Adds the earlier gradients of the parameters. After this call `.grad` belongs to the caller."""
        for parameter, before in zip(self._parameters, self._before, strict=True):
            if before is not None and parameter.grad is not None:
                parameter.grad.add_(before)

    def withdraw(self) -> None:
        """Restores the earlier gradients of the parameters."""
        for parameter, before in zip(self._parameters, self._before, strict=True):
            parameter.grad = before
