"""One contrastive training step on a global batch. Ranks and micro-batches do not change the result.

Embeddings are cached, then encoded again per micro-batch for the gradient. The ranks exchange log-sum-exps
instead of embedding gradients, and sum the parameter gradients once. Memory grows with the micro-batch; the
global batch adds only its embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import Group, OutOfMemory, free_memory
from trainables.losses.contrastive import loss_of
from trainables.losses.flat_gradients import FlatGradients
from trainables.losses.tiles import GatheredBatch
from trainables.losses.towers import PairEncoder, Tower

__all__ = ["NonFiniteLoss", "OutOfMemory", "PairEncoder", "StepResult", "global_batch_step"]

TILE_SIZE = 512
"""Rows and columns of a tile of logits: 1 MiB, which fits a core's cache. Larger tiles were not faster."""


class NonFiniteLoss(ArithmeticError):
    """The loss or a gradient of the global batch is not finite; every rank raises this in the same step."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step, equal on every rank. The gradients are in `.grad`.

    Args:
        loss: mean over the global batch.
        floor: lower bound of the loss for these positives and captions.
        spread: mean squared distance of a trained tower's embeddings from their mean; the smaller of two
            towers. 0 = all inputs have one embedding; infinite if no trained tower had two rows.
        recall: fraction of images whose nearest caption in the batch belongs to a pair of the same class; see
            `LossGradients`.
        logit_scale: multiplier of the logits in this step.
        micro_batch_size: value for the next step: as given, or smaller after an out-of-memory error.
        kept_graphs: value for the next step, likewise.
    """

    loss: float
    floor: float
    spread: float
    recall: float
    logit_scale: float
    micro_batch_size: int | None
    kept_graphs: int


def global_batch_step(
    pairs: PairEncoder,
    plan: BatchPlan,
    loss: LossConfig,
    *,
    log_logit_scale: Tensor,
    parameters: Sequence[Tensor],
    micro_batch_size: int | None,
    logit_bias: Tensor | None = None,
    group_vectors: Tensor | None = None,
    kept_graphs: int = 1,
    encoder_dtype: torch.dtype | None = None,
    tile_size: int = TILE_SIZE,
) -> StepResult:
    """Adds the gradient of the global batch's mean loss to `.grad`, the same on all ranks. Collective.

    Args:
        pairs: encoder for rows of the global batch.
        plan: equal on every rank, except `rank`.
        loss: kind and settings of the loss.
        log_logit_scale: [], logarithm of the multiplier; gets a gradient if it requires one.
        parameters: every trainable parameter, in the same order on every rank.
        micro_batch_size: rows per forward pass; None = all rows of this rank. After an out-of-memory error on
            any rank, all ranks keep one graph; if they already kept one, they halve the micro-batch size.
            They then repeat the step, with the same result.
        logit_bias: [] for `siglip`, [K] for losses over K findings; gets a gradient if it requires one.
        group_vectors: [C, d], unit length, in the order of the sorted groups. `soft_target` uses their
            similarities; None = the similarity of the groups' labels, or without labels, a group is similar
            only to itself.
        kept_graphs: number of micro-batches that keep their graph and are encoded only once, images first.
            One graph costs almost no extra memory, because a replay needs the same. If all graphs are kept,
            or without a micro-batch size, this is the ordinary step.
        encoder_dtype: dtype of the towers, if their embeddings have a higher precision.
        tile_size: rows and columns of a tile of logits.

    Raises:
        NonFiniteLoss: on every rank; `.grad` is unchanged.
        OutOfMemory: on every rank, if even one row at a time does not fit; `.grad` is unchanged.
    """
    group = Group.current(log_logit_scale.device)
    if (plan.rank, plan.world_size) != (group.rank, group.world_size):
        raise ValueError(
            f"plan of rank {plan.rank}/{plan.world_size} on rank {group.rank}/{group.world_size}"
        )
    if not loss_of(loss.kind, plan).has_bias:
        logit_bias = None
    scalars = [log_logit_scale] if logit_bias is None else [log_logit_scale, logit_bias]
    learned = [*parameters, *(scalar for scalar in scalars if scalar.requires_grad)]
    step = _Step(
        group, pairs, plan.to(group.device), loss, log_logit_scale, logit_bias, group_vectors,
        encoder_dtype, tile_size,
    )  # fmt: skip
    gradients = group.together(lambda: FlatGradients(learned))
    try:
        kept_graphs = max(1, kept_graphs)
        while (result := step.attempt(micro_batch_size, kept_graphs)) is None:
            if micro_batch_size is None or kept_graphs == 1:
                micro_batch_size = step.smaller(micro_batch_size)
            kept_graphs = 1
            gradients.clear()
        if not gradients.sum_over_ranks(group):
            raise NonFiniteLoss(f"the loss {result.loss:.6g} is finite, but a gradient is not")
    except BaseException:
        gradients.withdraw()
        raise
    gradients.commit()
    return result


@dataclass(frozen=True)
class _Step:
    """One step on one global batch, which may need several attempts."""

    group: Group
    pairs: PairEncoder
    plan: BatchPlan
    loss: LossConfig
    log_logit_scale: Tensor
    logit_bias: Tensor | None
    group_vectors: Tensor | None
    encoder_dtype: torch.dtype | None
    tile_size: int

    def attempt(self, micro_batch_size: int | None, kept_graphs: int) -> StepResult | None:
        """Tries the step; returns None if a rank ran out of memory and a smaller size may fit. Collective."""
        try:
            return self._run(micro_batch_size, kept_graphs)
        except OutOfMemory as error:
            if micro_batch_size == 1 and kept_graphs == 1:
                raise OutOfMemory(f"one pair at a time does not fit: {error}") from None
        free_memory()
        return None

    def smaller(self, micro_batch_size: int | None) -> int:
        """Returns half the micro-batch size, or half the rows of the largest rank if that is smaller."""
        largest = max(len(share) for share in (*self.plan.image_shares, *self.plan.text_shares))
        return max(1, min(micro_batch_size or largest, largest) // 2)

    def _run(self, micro_batch_size: int | None, kept_graphs: int) -> StepResult:
        group, pairs, plan = self.group, self.pairs, self.plan
        images, texts = (
            Tower(
                encode,
                rows,
                is_trained=is_trained,
                micro_batch_size=micro_batch_size,
                dtype=self.encoder_dtype,
            )
            for encode, rows, is_trained in (
                (pairs.encode_images, plan.image_share, pairs.trains_images),
                (pairs.encode_texts, plan.text_share, pairs.trains_texts),
            )
        )
        num_kept = images.keep(kept_graphs)
        texts.keep(kept_graphs - num_kept if micro_batch_size else 1)
        own_images, own_texts = group.together(lambda: (images.embed(), texts.embed()))
        batch = self._gather(own_images, own_texts)

        loss = loss_of(self.loss.kind, plan)
        positives = group.together(
            lambda: loss.positives(plan, self.loss, self.group_vectors, self.tile_size)
        )
        gradients = loss.compute(batch, group, positives)
        if not math.isfinite(gradients.loss):
            raise NonFiniteLoss(f"loss is {gradients.loss} at logit scale {batch.logit_scale:.4g}")

        def backward() -> None:
            _accumulate(self.log_logit_scale, gradients.log_logit_scale)
            _accumulate(self.logit_bias, gradients.logit_bias)
            texts.backward_kept(gradients.texts)
            images.backward_kept(gradients.images)
            texts.replay(gradients.texts)
            images.replay(gradients.images)

        group.together(backward)
        return StepResult(
            gradients.loss,
            group.together(lambda: loss.floor(plan, positives)),
            self._spread(batch),
            gradients.recall,
            batch.logit_scale,
            micro_batch_size,
            kept_graphs,
        )

    def _spread(self, batch: GatheredBatch) -> float:
        trained = ((batch.images, self.pairs.trains_images), (batch.texts, self.pairs.trains_texts))
        spreads = [
            float(rows.detach().var(dim=0, correction=0).sum())
            for rows, is_trained in trained
            if is_trained and len(rows) > 1
        ]
        return min(spreads, default=math.inf)

    def _gather(self, own_images: Tensor, own_texts: Tensor) -> GatheredBatch:
        plan, group = self.plan, self.group
        # A rank without rows gets width and precision from the other ranks.
        width, is_double = group.maximum(
            max(own_images.shape[1], own_texts.shape[1]),
            torch.float64 in (own_images.dtype, own_texts.dtype),
        )
        dtype = torch.float64 if is_double else torch.float32

        def gathered(own: Tensor, shares: Sequence[range]) -> Tensor:
            rows = own if len(own) else own.new_empty(0, width)
            return group.all_gather(rows.to(group.device, dtype), shares)

        return GatheredBatch(
            images=gathered(own_images, plan.image_shares),
            texts=gathered(own_texts, plan.text_shares),
            plan=plan,
            image_rows=plan.image_share,
            text_rows=plan.text_share if self.pairs.trains_texts else range(0),
            logit_scale=float(self.log_logit_scale.detach().double().exp()),
            logit_bias=None if self.logit_bias is None else self.logit_bias.detach().to(group.device, dtype),
            tile_size=self.tile_size,
        )


def _accumulate(scalar: Tensor | None, gradient: Tensor) -> None:
    if scalar is not None and scalar.requires_grad and scalar.grad is not None:
        scalar.grad.add_(gradient)
