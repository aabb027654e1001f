"""Detects diverged training: a loss that is not finite or much too high, or collapsed embeddings."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from trainables.errors import TrainingDiverged
from trainables.losses.global_batch import NonFiniteLoss
from trainables.training.optim import TrainState

MIN_SPREAD = 1e-4
"""Spread of unit vectors with a mean cosine of 0.9999. Encoders that learn showed 0.2 and more. Collapsed
encoders showed 1e-12, or 1e-5 with dropout."""
MIN_SHARE_OF_FIRST = 0.01
"""Fraction of the spread at the first step: embeddings that are close at the start may still train."""
MAX_COLLAPSED_STEPS = 2
"""Successive steps; a single collapsed step may be a last batch of equal images."""
MAX_LOSS_RATIO = 3.0
"""Mean loss of an epoch, relative to the loss of the first step or of a guess, whichever is higher."""


class DivergenceCheck:
    """Stops a training that no longer learns. All ranks get the same numbers, so all ranks stop together."""

    def __init__(self, state: TrainState, global_batch_size: int) -> None:
        self.state = state
        self.guess = math.log(global_batch_size)  # the loss if all pairs of a batch look alike
        self.num_collapsed = 0
        self.min_spread: float | None = None  # known after the first step

    @contextmanager
    def of_step(self) -> Generator[None]:
        """Adds the number of the step to the message of a non-finite loss."""
        try:
            yield
        except NonFiniteLoss as error:
            raise self._diverged(self.state.step + 1, str(error)) from error

    def check_collapse(self, spread: float) -> None:
        """Raises TrainingDiverged if the embeddings of the last step collapsed (`StepResult.spread`)."""
        if self.min_spread is None:
            self.min_spread = min(MIN_SPREAD, MIN_SHARE_OF_FIRST * spread)
        self.num_collapsed = self.num_collapsed + 1 if spread < self.min_spread else 0
        if self.num_collapsed >= MAX_COLLAPSED_STEPS:
            raise self._diverged(self.state.step, "the embeddings collapsed: all inputs have the same one")

    def check_losses(self, losses: Sequence[float]) -> None:
        """Raises TrainingDiverged if the losses of the last epoch are too high."""
        mean, first = float(np.mean(losses)), self.state.losses[0]
        if mean > MAX_LOSS_RATIO * max(first, self.guess):
            raise self._diverged(
                self.state.step, f"the mean loss of the epoch is {mean:.4g}, the first was {first:.4g}"
            )

    def _diverged(self, step: int, reason: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"training diverged at step {step} of {self.state.total_steps}: {reason}; lower "
            f"optim.learning_rate ({self.state.peak_learning_rate:g})"
        )
