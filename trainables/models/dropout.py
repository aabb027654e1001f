"""Adapter dropout whose masks are a pure function of (seed, step, module, row in the global batch).

The contrastive engine runs every micro-batch twice, and may cut a batch into any micro-batches on any number
of workers: masks from a counter hash are the same each time, and nothing is saved (design: "The exact global
batch", step 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


class CounterDropout(nn.Module):
    """Inverted dropout on inputs [B, …] whose first axis is the rows that `set_dropout_rows` named."""

    def __init__(self, probability: float, *, name: str, tower: str) -> None:
        """Takes its stream of random numbers from `name`, which no other module of the encoder has."""
        super().__init__()
        self.probability = probability
        self.tower = tower
        self._name_key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        self._key = 0
        self._rows: Tensor | None = None

    def at(self, *, seed: int, step: int, rows: Sequence[int]) -> None:
        """Says which rows of which step the next inputs are."""
        self._key = mix(mix(mix(self._name_key) ^ seed) ^ step)
        self._rows = torch.as_tensor(list(rows), dtype=torch.int64)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the inputs, in training with elements dropped and the rest enlarged."""
        if not self.training or self.probability == 0:
            return inputs
        if self._rows is None or len(self._rows) != len(inputs):
            named = 0 if self._rows is None else len(self._rows)
            raise RuntimeError(f"{len(inputs)} rows come in, set_dropout_rows named {named}")
        rows = self._rows.to(inputs.device)
        keep = keep_mask(self._key, rows, inputs[0].numel(), probability=self.probability)
        return inputs * keep.view(inputs.shape) / _keep_probability(self.probability)

    def extra_repr(self) -> str:
        """Returns what `print` shows."""
        return f"probability={self.probability}"


def set_dropout_rows(
    encoder: nn.Module,
    *,
    seed: int,
    step: int,
    image_rows: Sequence[int] | None = None,
    text_rows: Sequence[int] | None = None,
) -> None:
    """Names the rows of the global batch that the next forward pass of each tower computes."""
    rows = {"image": image_rows, "text": text_rows}
    for module in encoder.modules():
        if isinstance(module, CounterDropout) and (named := rows[module.tower]) is not None:
            module.at(seed=seed, step=step, rows=named)


def keep_mask(key: int, rows: Tensor, num_elements: int, *, probability: float) -> Tensor:
    """Returns which elements stay, bool [B, num_elements].

    One 64-bit hash (SplitMix64, Steele et al. 2014) gives four 16-bit uniforms. An element's number counts
    along its row, so it does not change when texts are padded to another length.
    """
    num_hashes = -(-num_elements // 4)
    streams = _mix(rows ^ _signed(key)).unsqueeze(1)
    counters = torch.arange(1, num_hashes + 1, device=rows.device) * _signed(_GOLDEN)
    uniforms = _mix(streams + counters).view(torch.int16)[:, :num_elements]
    return uniforms >= _threshold(probability) - 2**15


def _threshold(probability: float) -> int:
    return round(probability * 2**16)


def _keep_probability(probability: float) -> float:
    """Returns the probability that the 16 bits really give, so that the expectation is exact."""
    return 1 - _threshold(probability) / 2**16


def mix(value: int) -> int:
    """Returns the SplitMix64 finaliser of an unsigned 64-bit number."""
    value = (value + _GOLDEN) % 2**64
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        value = (value ^ (value >> shift)) * multiplier % 2**64
    return value


def _mix(values: Tensor) -> Tensor:
    """Does the same on int64, which wraps around; its right shift keeps the sign, which is masked off."""
    values = values + _signed(_GOLDEN)
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        values ^= (values >> shift) & (2 ** (64 - shift) - 1)
        values *= _signed(multiplier)
    return values


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
