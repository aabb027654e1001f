# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""Adapter dropout whose masks depend only on (seed, step, module, row in the global batch).

A training step encodes every micro-batch twice, for any micro-batch size and number of workers. Masks from a
counter hash are equal each time. The backward pass computes the masks again, so an adapter saves only its
input, which neighbouring adapters share, and neither a mask nor a masked copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
HASHES_AT_ONCE = 2**16
"""The number of hashes that fit a CPU core's cache; larger blocks took twice as long."""


class CounterDropout(nn.Module):
    """Inverted dropout on inputs [B, …]; the first axis are the rows set by `set_dropout_rows`."""

    def __init__(self, probability: float, *, name: str, tower: str) -> None:
        """Creates a stream of random numbers from `name`, which must be unique in the encoder."""
        super().__init__()
        self.probability = probability
        self.tower = tower
        self._name_key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        self._key = 0
        self._rows: Tensor | None = None

    def at(self, *, seed: int, step: int, rows: Sequence[int]) -> None:
        """Sets the step and the rows of the next inputs."""
        self._key = mix(mix(mix(self._name_key) ^ seed) ^ step)
        self._rows = torch.as_tensor(list(rows), dtype=torch.int64)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the inputs; in training, some elements are zero and the others are scaled up."""
        keep = self.mask_for(inputs)
        return inputs if keep is None else inputs * keep() / self.keep_probability

    def mask_for(self, inputs: Tensor) -> Callable[[], Tensor] | None:
        """Returns a function that computes the mask of the inputs, bool, or None if nothing is dropped.

        Raises:
            RuntimeError: the number of inputs differs from that of the rows set before.
        """
        if not self.training or self.probability == 0:
            return None
        if self._rows is None or len(self._rows) != len(inputs):
            named = 0 if self._rows is None else len(self._rows)
            raise RuntimeError(f"{len(inputs)} rows in the input, but set_dropout_rows set {named}")
        # Captured now, because other rows may be set before the backward pass.
        key, rows, shape = self._key, self._rows.to(inputs.device), inputs.shape
        num_elements = inputs[0].numel()
        return lambda: keep_mask(key, rows, num_elements, probability=self.probability).view(shape)

    @property
    def keep_probability(self) -> float:
        """Returns the exact probability given by 16 bits of the hash, so that the expectation is exact."""
        return 1 - _threshold(self.probability) / 2**16

    def extra_repr(self) -> str:
        """Returns the text that `print` shows."""
        return f"probability={self.probability}"


class AdapterInput(nn.Module):
    """The matrix A of an adapter with dropout; for the backward pass, only the unchanged input is saved.

    An input in lower precision than A is cast, and the cast copy is not saved either.
    """

    def __init__(self, layer: nn.Module, dropout: CounterDropout | None) -> None:
        """Takes a linear or convolutional layer without bias; the weight keeps its name."""
        super().__init__()
        assert isinstance(layer.weight, nn.Parameter)
        self.weight = layer.weight
        self.dropout = dropout
        self._layer = (layer,)  # in a tuple: as a child module, its weight would be listed twice

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns A (mask ∘ inputs / p), in A's precision."""
        keep = None if self.dropout is None else self.dropout.mask_for(inputs)
        if keep is None and inputs.dtype == self.weight.dtype:
            return self.apply_layer(inputs, self.weight)
        outputs: Tensor = _DroppedCall.apply(inputs, self.weight, self.apply_layer, keep)
        if keep is None or self.dropout is None:
            return outputs
        return outputs / self.dropout.keep_probability  # scaled here, where there are fewer numbers

    def apply_layer(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Returns the output of the layer with a given weight."""
        (layer,) = self._layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(inputs, weight)
        return functional_call(layer, {"weight": weight}, (inputs,))


class _DroppedCall(torch.autograd.Function):
    """Computes layer(mask ∘ inputs, weight); the backward pass computes mask and product again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: Any, keep: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.layer, ctx.keep = layer, keep
        return layer(_masked(inputs, keep and keep()).to(weight.dtype), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        inputs, weight = ctx.saved_tensors
        keep = ctx.keep and ctx.keep()
        masked = _masked(inputs, keep).to(weight.dtype).detach()
        masked.requires_grad_(ctx.needs_input_grad[0])
        weight = weight.detach().requires_grad_()
        with torch.enable_grad():
            outputs = ctx.layer(masked, weight)
        if not ctx.needs_input_grad[0]:
            return None, torch.autograd.grad(outputs, weight, gradients[0])[0], None, None
        of_inputs, of_weight = torch.autograd.grad(outputs, (masked, weight), gradients[0])
        return _masked(of_inputs, keep).to(inputs.dtype), of_weight, None, None


def _masked(inputs: Tensor, keep: Tensor | None) -> Tensor:
    return inputs if keep is None else torch.where(keep, inputs, 0)


def set_dropout_rows(
    encoder: nn.Module,
    *,
    seed: int,
    step: int,
    image_rows: Sequence[int] | None = None,
    text_rows: Sequence[int] | None = None,
) -> None:
    """Sets the rows of the global batch that the next forward pass of each tower computes."""
    rows = {"image": image_rows, "text": text_rows}
    for module in encoder.modules():
        if isinstance(module, CounterDropout) and (named := rows[module.tower]) is not None:
            module.at(seed=seed, step=step, rows=named)


def keep_mask(key: int, rows: Tensor, num_elements: int, *, probability: float) -> Tensor:
    """Returns which elements are kept, bool [B, num_elements].

    One 64-bit hash (SplitMix64, Steele et al. 2014) gives four 16-bit uniform numbers. Elements are numbered
    along their row, so padding texts to another length does not change the mask.
    """
    num_hashes = -(-num_elements // 4)
    streams = _mix(rows ^ _signed(key)).unsqueeze(1)
    counters = torch.arange(1, num_hashes + 1, device=rows.device) * _signed(_GOLDEN)
    keep = torch.empty(len(rows), num_elements, dtype=torch.bool, device=rows.device)
    at_once = len(rows) if rows.is_cuda else max(1, HASHES_AT_ONCE // num_hashes)
    for some, into in zip(streams.split(at_once), keep.split(at_once), strict=True):
        uniforms = _mix(some + counters).view(torch.int16)[:, :num_elements]
        torch.ge(uniforms, _threshold(probability) - 2**15, out=into)
    return keep


def _threshold(probability: float) -> int:
    return round(probability * 2**16)


def mix(value: int) -> int:
    """Returns the SplitMix64 finaliser of an unsigned 64-bit number."""
    value = (value + _GOLDEN) % 2**64
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        value = (value ^ (value >> shift)) * multiplier % 2**64
    return value


def _mix(values: Tensor) -> Tensor:
    """Returns the same for int64, which wraps around; the sign bits of its right shift are masked off."""
    values = values + _signed(_GOLDEN)
    shifted = torch.empty_like(values)
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        torch.bitwise_right_shift(values, shift, out=shifted)
        values.bitwise_xor_(shifted.bitwise_and_(2 ** (64 - shift) - 1))
        if multiplier != 1:
            values.mul_(_signed(multiplier))
    return values


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
