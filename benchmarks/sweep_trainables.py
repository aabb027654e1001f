"""Trainables whose cost is known, for `sweep.py`; Ray's workers import this module."""

from __future__ import annotations

import time

import torch

from trainables.config import TrialConfig
from trainables.context import RunContext

OBJECTIVE = "val/probe_joint/macro_auroc"
NUM_EPOCHS = 10
SIZE = 256


def no_op(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """Does nothing."""
    return {OBJECTIVE: 0.5}


def work(config: TrialConfig, context: RunContext) -> dict[str, float]:
    """Multiplies matrices, as often as `num_epochs` says, and reports ten times on the way."""
    if config.adapt.method == "none":
        return {OBJECTIVE: 0.5}
    matrix = torch.eye(SIZE)
    for epoch in range(1, NUM_EPOCHS + 1):
        for _ in range(config.num_epochs):
            matrix = matrix @ matrix
        context.report({"train/epoch": epoch, "train/loss": float(matrix[0, 0]), OBJECTIVE: 0.5})
    return {OBJECTIVE: 0.5}


def rounds_for(seconds: float) -> int:
    """Returns how often `work` has to multiply an epoch, so that it takes about `seconds` here."""
    matrix, count, began = torch.eye(SIZE), 0, time.perf_counter()
    while time.perf_counter() - began < 1:
        matrix = matrix @ matrix
        count += 1
    return max(1, round(count * seconds / NUM_EPOCHS))
