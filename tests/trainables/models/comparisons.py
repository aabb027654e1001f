"""How encoders are compared: the same in value where the arithmetic is exact, whatever the kernels round."""

from __future__ import annotations

import torch

from trainables.models.encoders.dual_encoder import DualEncoder

EXACT = {"rtol": 0, "atol": 1e-12}
"""Of float64 results near 1: a hundred layers of rounding (2e-16 each) and room for a factor of 50."""
ROUNDED = {"rtol": 0, "atol": 1e-6}
"""Of unit-length float32 embeddings: some ten roundings (6e-8 each) of the largest element."""


def assert_same_weights(found: DualEncoder, expected: DualEncoder) -> None:
    """Compares every weight and statistic to the last bit.

    Two forward passes of equal weights may differ: how a kernel sums depends on where in memory they lie.
    """
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
