"""A short training of a random encoder on noise, the same on every device: what several lines compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from clip_step import Batch, RowsOfBatch
from random_encoders import Model, build_encoder, lora_config
from torch import Tensor

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step
from trainables.models.adapters.precision import store_frozen_in_bfloat16
from trainables.training.optim import TrainState

NUM_CLASSES = 3
Optimiser = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """A training; what is not here is a line's own: the device, and how a batch is cut.

    Args:
        model: its shape; weights, adapters, pixels and captions are drawn from seed 0.
        batches: pairs of the data set, cut into so many batches that take turns.
        pairs: of a batch.
        optimiser: `adamw` is the product's. It divides by the gradient's own size, so rounding of a gradient
            near zero becomes a whole step; where devices are compared, `sgd` keeps rounding small.
    """

    model: Model
    pairs: int
    steps: int
    batches: int = 1
    captions: int = 16
    tokens: int = 12
    dropout: float = 0.1
    optimiser: Optimiser = "sgd"
    learning_rate: float = 0.01


@dataclass(frozen=True)
class Curve:
    """The losses of a training, and the gradient of its first step on the CPU in float64, in one vector."""

    losses: list[float]
    first_gradient: Tensor

    def largest_deviation(self, other: Curve) -> float:
        """Returns how far a loss is from the other's, as a share of it."""
        pairs = zip(self.losses, other.losses, strict=True)
        return max(abs(loss / expected - 1) for loss, expected in pairs)

    def gradient_difference(self, other: Curve) -> float:
        """Returns how far a first gradient is from the other's, as a share of that one's largest number."""
        difference = (self.first_gradient - other.first_gradient).abs().max()
        return float(difference / other.first_gradient.abs().max())


def train(
    recipe: Recipe,
    device: torch.device,
    micro_batch_size: int | None,
    *,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
) -> Curve:
    """Takes a recipe's steps. `dtype` bfloat16 is that of frozen weights, float64 that of all. Collective."""
    encoder, parameters = build_encoder(recipe.model, dropout=recipe.dropout, seed=0, device=device)
    everything = Batch.random(
        encoder, pairs=recipe.pairs * recipe.batches, captions=recipe.captions, tokens=recipe.tokens, seed=0
    )
    if dtype == torch.bfloat16:
        store_frozen_in_bfloat16(encoder)
    else:
        encoder.to(dtype).dtype = dtype
    scale = encoder.log_logit_scale.requires_grad_()
    optimiser = Optimisers(recipe, [*parameters, scale])
    losses: list[float] = []
    first_gradient = torch.empty(0)
    for step, (batch, classes) in zip(range(recipe.steps), in_turn(everything, recipe), strict=False):
        result = global_batch_step(
            RowsOfBatch(encoder, batch, seed=0, step=step),
            BatchPlan(batch.text_of_pair, classes, rank=rank, world_size=world_size),
            LossConfig(kind="multi_positive", pair_weight=0.5),
            log_logit_scale=scale,
            parameters=parameters,
            micro_batch_size=micro_batch_size,
            encoder_dtype=encoder.dtype,
        )
        losses.append(result.loss)
        if step == 0:
            gradients = [p.grad.flatten().double().cpu() for p in parameters if p.grad is not None]
            first_gradient = torch.cat(gradients)
        optimiser.apply_gradients()
    return Curve(losses, first_gradient)


def in_turn(everything: Batch, recipe: Recipe) -> Iterator[tuple[Batch, Tensor]]:
    """Yields batch after batch with its classes, and begins anew after the last one."""
    for start in itertools.cycle(range(0, len(everything), recipe.pairs)):
        rows = slice(start, start + recipe.pairs)
        captions, text_of_pair = everything.text_of_pair[rows].unique(return_inverse=True)
        batch = Batch(everything.images[rows], everything.token_ids[captions], text_of_pair)
        yield batch, captions[text_of_pair] % NUM_CLASSES


class Optimisers:
    """The product's AdamW as it is set up for a trial, or plain gradient descent."""

    def __init__(self, recipe: Recipe, learned: Sequence[Any]) -> None:
        config = lora_config(dropout=recipe.dropout, seed=0)
        optim = config.optim.model_copy(update={"learning_rate": recipe.learning_rate})
        names = {str(number): parameter for number, parameter in enumerate(learned)}
        self.state = TrainState(names, optim, total_steps=recipe.steps)
        if recipe.optimiser == "sgd":
            self.state.optimizer = torch.optim.SGD(learned, lr=recipe.learning_rate)  # pyright: ignore

    def apply_gradients(self) -> None:
        """Clips, steps and clears the gradients."""
        self.state.apply_gradients()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Sets for a while whether float32 is multiplied in TF32, in matrices and in convolutions alike."""
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
