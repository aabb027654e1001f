"""The contrastive step of one global batch, exact however it is cut into ranks and micro-batches.

Embeddings are cached and gradients replayed by micro-batch, log-sum-exps are exchanged instead of gradients
of embeddings, and the parameters' gradients are summed once. Memory follows the micro-batch; the global batch
costs its embeddings only.
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
from trainables.losses.contrastive import LOSSES
from trainables.losses.flat_gradients import FlatGradients
from trainables.losses.tiles import GatheredBatch
from trainables.losses.towers import PairEncoder, Tower

__all__ = ["NonFiniteLoss", "OutOfMemory", "PairEncoder", "StepResult", "global_batch_step"]

TILE_SIZE = 512
"""Rows and columns of a block of logits: 1 MiB, which stays in a core's cache; larger were no faster."""


class NonFiniteLoss(ArithmeticError):
    """The loss or a gradient of the global batch is not finite; every rank raises it in the same step."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step, the same on every rank; gradients are in `.grad`.

    Args:
        loss: mean over the global batch.
        floor: the smallest value the loss can take with these positives and captions.
        spread: mean squared distance of the trained towers' embeddings to their mean; the smaller of the two.
            0 = all inputs have one embedding; infinite where no trained tower had two rows.
        recall: class-aware: share of images whose nearest caption in the batch is carried by their own class.
        logit_scale: the multiplier of this step.
        micro_batch_size: what to pass to the next step: as given, or smaller after an out-of-memory error.
        kept_graphs: likewise.
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
        pairs: encodes rows of the global batch on this rank.
        plan: the same on every rank but for `rank`.
        loss: kind and settings.
        log_logit_scale: [], logarithm of the multiplier; gets a gradient where it requires one.
        parameters: every trainable parameter, in the same order on every rank.
        micro_batch_size: rows per forward; none = the whole share. After an out-of-memory error on any rank
            all ranks keep one graph, and if they did already, halve it; the same step is taken again, with
            the same result.
        logit_bias: [], of `siglip`; gets a gradient where it requires one.
        group_vectors: [C, d], unit length, in the order of the sorted groups: what `soft_target` measures
            similarity of; none = groups are alike only to themselves.
        kept_graphs: micro-batches that keep their graph instead of being encoded twice, images first. One
            costs next to nothing, since a replay needs as much anyway; all of them is the plain step, which
            is also what no micro-batch size means.
        encoder_dtype: what the towers compute in, where their embeddings come in a higher precision.
        tile_size: rows and columns of a block of logits.

    Raises:
        NonFiniteLoss: on every rank; `.grad` is as it was before.
        OutOfMemory: on every rank, though one row is encoded at a time; `.grad` is as it was before.
    """
    group = Group.current(log_logit_scale.device)
    if (plan.rank, plan.world_size) != (group.rank, group.world_size):
        raise ValueError(
            f"plan of rank {plan.rank}/{plan.world_size} on rank {group.rank}/{group.world_size}"
        )
    if not LOSSES[loss.kind].has_bias:
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
            raise NonFiniteLoss(f"loss {result.loss:.6g} is finite, a gradient is not")
    except BaseException:
        gradients.withdraw()
        raise
    gradients.commit()
    return result


@dataclass(frozen=True)
class _Step:
    """One step of one global batch, which may take several attempts."""

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
        """Returns none where a rank ran out of memory and taking less at once may help. Collective."""
        try:
            return self._run(micro_batch_size, kept_graphs)
        except OutOfMemory as error:
            if micro_batch_size == 1 and kept_graphs == 1:
                raise OutOfMemory(f"one pair at a time does not fit: {error}") from None
        free_memory()
        return None

    def smaller(self, micro_batch_size: int | None) -> int:
        """Halves the micro-batch, or the largest share of any rank where that is less: alike on all ranks."""
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

        loss = LOSSES[self.loss.kind]
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
        # A rank without rows learns width and precision from the others.
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
            logit_bias=0.0 if self.logit_bias is None else float(self.logit_bias.detach()),
            tile_size=self.tile_size,
        )


def _accumulate(scalar: Tensor | None, gradient: Tensor) -> None:
    if scalar is not None and scalar.requires_grad and scalar.grad is not None:
        scalar.grad.add_(gradient)
