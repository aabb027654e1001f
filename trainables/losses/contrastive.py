# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""The losses and their exact gradients with respect to the embeddings, computed in tiles.

Unit-length embeddings are I [B, D] and T [U, D], with one row of T per distinct caption. The logits are
S = s I Tᵀ + b [B, U], the targets t_ij come from `positives`, and n_u pairs have caption u. Every loss is a
normaliser, nonlinear in S, minus a term linear in S:

    ∂loss/∂I = s (W T - Y)      W_iu  weight of a pair in the normaliser, from tiles (`tiles.add_products`)
    ∂loss/∂T = s (Wᵀ I - X)     Y, X  weighted sums of a row's positives (`positives.pull_to_positives`)
    ∂loss/∂log s = Σ_i I_i · ∂loss/∂I_i

Each rank computes the gradient of its own rows. It holds one tile of S and a few [·, D], never all of S.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import Group
from trainables.losses.positives import GroupPositives, Positives, SoftPositives, pull_to_positives
from trainables.losses.similarity import Cosine, Jaccard
from trainables.losses.tiles import (
    GatheredBatch,
    NearestCaption,
    TileWeights,
    add_products,
    inner_product,
    take,
)


@dataclass(frozen=True)
class LossGradients:
    """A loss and its gradients. `loss` and `recall` are equal on all ranks; other fields are one rank's part.

    Args:
        loss: mean over the global batch.
        recall: fraction of images whose nearest caption in the batch belongs to a pair of the same class, or
            with `finding_loss`, whose nearest finding is present.
        images: ∂loss/∂I for this rank's rows, [b, D].
        texts: ∂loss/∂T for this rank's rows, [u, D].
        log_logit_scale: this rank's part of ∂loss/∂log s, float64 []; the sum over ranks is the gradient.
        logit_bias: this rank's part of ∂loss/∂b, float64, in the shape of b.
    """

    loss: float
    recall: float
    images: Tensor
    texts: Tensor
    log_logit_scale: Tensor
    logit_bias: Tensor


def softmax_loss(batch: GatheredBatch, group: Group, positives: Positives) -> LossGradients:
    """Computes the symmetric cross-entropy over images and captions. Collective.

    w = 1 gives CLIP (Radford et al. 2021, Figure 3). w = 0 gives UniCL (Yang et al. 2022, Eq. 1-3), which is
    SupCon's L_out (Khosla et al. 2020, Eq. 2) across two towers: all pairs of a group are positives. The soft
    targets are those of MedCLIP (Wang et al. 2022, §3.3). The targets sum to 1 over each row and each column.

        loss = 1/2B Σ_ij [t_ij^row (a_i - S_ij) + t_ij^col (c_j - S_ij)]
        a_i = logsumexp_j S_ij = logsumexp_u (S_iu + ln n_u),  c_j = logsumexp_i S_ij
        W_iu = n_u / 2B [exp(S_iu - a_i) + exp(S_iu - c_u)]

    The ranks exchange a and c, which are one number per row. They exchange no gradients.
    """
    plan = batch.plan
    copies = plan.copies.to(batch.images.dtype)

    def normalise() -> tuple[Tensor, Tensor, NearestCaption]:
        by_row = batch.images.new_full((len(batch.image_rows),), -torch.inf)
        by_column = batch.images.new_full((len(batch.texts),), -torch.inf)
        nearest, log_copies = NearestCaption(batch), copies.log()
        for here, columns, logits in batch.own_logits():
            nearest.see(here, columns, logits)
            there = slice(columns.start, columns.stop)
            by_column[there] = torch.logaddexp(by_column[there], logits.logsumexp(0))
            by_row[here] = torch.logaddexp(by_row[here], logits.add_(log_copies[there]).logsumexp(1))
        return by_row, by_column, nearest

    own_row_normalisers, own_column_parts, nearest = group.together(normalise)
    row_normalisers = group.all_gather(own_row_normalisers, plan.image_shares)
    column_normalisers = group.logsumexp(own_column_parts)

    def weights(logits: Tensor, rows: range, columns: range) -> Tensor:
        by_row = (logits - take(row_normalisers, rows).unsqueeze(1)).exp_()
        by_column = logits.sub_(take(column_normalisers, columns)).exp_()
        return by_row.add_(by_column).mul_(take(copies, columns) / (2 * plan.num_pairs))

    by_row = own_row_normalisers.double().sum()
    by_column = take(copies * column_normalisers, plan.text_share).double().sum()
    normaliser = _Normaliser((by_row + by_column) / (2 * plan.num_pairs), nearest.num_hits, weights)
    return _finish(batch, group, normaliser, positives)


def class_loss(batch: GatheredBatch, group: Group, positives: Positives) -> LossGradients:
    """Computes the cross-entropy of every image over class embeddings, which replace captions. Collective.

    The class of image i is `text_of_pair[i]`. The loss of an image needs no other image, so the ranks
    exchange nothing.

        loss = 1/B Σ_i a_i - S_i,u(i),  a_i = logsumexp_u S_iu,  W_iu = exp(S_iu - a_i) / B
    """
    plan = batch.plan

    def normalise() -> tuple[Tensor, NearestCaption]:
        by_row = batch.images.new_full((len(batch.image_rows),), -torch.inf)
        nearest = NearestCaption(batch)
        for here, columns, logits in batch.own_logits():
            nearest.see(here, columns, logits)
            by_row[here] = torch.logaddexp(by_row[here], logits.logsumexp(1))
        return by_row, nearest

    own_normalisers, nearest = group.together(normalise)
    row_normalisers = group.all_gather(own_normalisers, plan.image_shares)

    def weights(logits: Tensor, rows: range, columns: range) -> Tensor:
        return logits.sub_(take(row_normalisers, rows).unsqueeze(1)).exp_().div_(plan.num_pairs)

    value = own_normalisers.double().sum() / plan.num_pairs
    return _finish(batch, group, _Normaliser(value, nearest.num_hits, weights), positives)


def finding_loss(batch: GatheredBatch, group: Group, positives: None) -> LossGradients:
    """Computes the binary cross-entropy of every image over findings, which replace captions. Collective.

    Column k of the logits asks whether an image has finding k: y_ik is 1, 0 or unknown. The loss of an image
    is the mean over its m_i known labels, and 0 without any. So all images count the same, whatever is
    unknown. The loss of an image needs no other image, so the ranks exchange nothing.

        loss = 1/B Σ_i 1/m_i Σ_{k known} softplus(S_ik) - y_ik S_ik,  W_ik = (σ(S_ik) - y_ik) / (B m_i)
    """
    del positives  # the term of the labels is in W: K is small, and many labels of an image are present
    plan, labels = batch.plan, batch.plan.labels
    assert labels is not None
    num_known = (labels >= 0).sum(1).clamp_(min=1)

    def labels_of(rows: range, columns: range) -> tuple[Tensor, Tensor]:
        here, dtype = take(labels, rows)[:, columns.start : columns.stop], batch.images.dtype
        shares = (here >= 0).to(dtype) / (take(num_known, rows).unsqueeze(1) * plan.num_pairs)
        return (here == 1).to(dtype), shares

    def weights(logits: Tensor, rows: range, columns: range) -> Tensor:
        is_present, shares = labels_of(rows, columns)
        return logits.sigmoid_().sub_(is_present).mul_(shares)

    def normalise() -> tuple[Tensor, Tensor, NearestCaption]:
        value = torch.zeros((), dtype=torch.float64, device=batch.images.device)
        slope, nearest = value.new_zeros(len(batch.texts)), NearestCaption(batch)
        for here, columns, logits in batch.own_logits():
            nearest.see(here, columns, logits)
            rows = batch.image_rows[here]
            is_present, shares = labels_of(rows, columns)
            each = F.binary_cross_entropy_with_logits(logits, is_present, weight=shares, reduction="none")
            value += each.double().sum()
            take(slope, columns).add_(weights(logits, rows, columns).double().sum(0))
        return value, slope, nearest

    value, slope, nearest = group.together(normalise)
    normaliser = _Normaliser(value, nearest.num_present, weights)
    return _finish(batch, group, normaliser, None, logit_bias=slope)


def sigmoid_loss(batch: GatheredBatch, group: Group, positives: GroupPositives) -> LossGradients:
    """Computes the pairwise sigmoid loss (SigLIP, Zhai et al. 2023, Algorithm 1) for groups. Collective.

    Every image-caption pair is a separate binary question, so the ranks exchange only embeddings. With w = 1
    this is SigLIP. With w = 0 every pair of the group is a positive. Values between give soft labels.

        loss = -1/B Σ_ij t_ij log σ(S_ij) + (1 - t_ij) log σ(-S_ij) = 1/B Σ_ij softplus(S_ij) - t_ij S_ij
        W_iu = n_u / B σ(S_iu)
    """
    plan = batch.plan
    shares = plan.copies.to(batch.images.dtype) / plan.num_pairs

    def normalise() -> tuple[Tensor, Tensor, NearestCaption]:
        value = torch.zeros((), dtype=torch.float64, device=batch.images.device)
        slope, nearest = torch.zeros_like(value), NearestCaption(batch)
        for here, columns, logits in batch.own_logits():
            nearest.see(here, columns, logits)
            value += (F.softplus(logits) @ take(shares, columns)).double().sum()
            slope += (logits.sigmoid_() @ take(shares, columns)).double().sum()
        return value, slope, nearest

    def weights(logits: Tensor, rows: range, columns: range) -> Tensor:
        return logits.sigmoid_().mul_(take(shares, columns))

    value, slope, nearest = group.together(normalise)
    mass = positives.mass(plan, batch.image_rows) / plan.num_pairs
    if batch.logit_bias is not None:
        value = value - mass * batch.logit_bias
    normaliser = _Normaliser(value, nearest.num_hits, weights)
    return _finish(batch, group, normaliser, positives, logit_bias=slope - mass)


@dataclass(frozen=True)
class _Normaliser:
    """The normaliser of a loss after the first pass: this rank's part of the value, float64 [], and W.

    `num_hits` counts this rank's images that `LossGradients.recall` counts.
    """

    value: Tensor
    num_hits: Callable[[GatheredBatch], Tensor]
    weights: TileWeights


def _finish(
    batch: GatheredBatch,
    group: Group,
    normaliser: _Normaliser,
    positives: Positives | None,
    *,
    logit_bias: Tensor | None = None,
) -> LossGradients:
    """Subtracts the term of the positives, if any, from the loss, then from the gradients. Collective."""

    def pull() -> tuple[Tensor, Tensor, Tensor]:
        images, texts = batch.no_gradients() if positives is None else pull_to_positives(batch, positives)
        own_loss = normaliser.value + inner_product(batch, images) * batch.logit_scale
        return images, texts, torch.stack([own_loss, normaliser.num_hits(batch)])

    images, texts, own_part = group.together(pull)
    loss, num_hits = (float(value) for value in group.sum(own_part))

    def push() -> Tensor:
        add_products(batch, images, texts, weights=normaliser.weights)
        images.mul_(batch.logit_scale)
        texts.mul_(batch.logit_scale)
        return inner_product(batch, images)

    log_logit_scale = group.together(push)
    bias = torch.zeros_like(log_logit_scale) if logit_bias is None else logit_bias
    return LossGradients(loss, num_hits / batch.plan.num_pairs, images, texts, log_logit_scale, bias)


def softmax_floor(plan: BatchPlan, positives: Positives) -> float:
    """Returns the lower bound of `softmax_loss`; the loss can come arbitrarily close to this bound.

    The bound is usually above 0: targets are spread over a group and equal captions have equal logits. Let
    q_iu be the sum of targets on caption u. Each direction is a cross-entropy of q, with its minimum at
    S_iu = ln(q_iu / n_u). Both directions reach the minimum together, except with soft targets if a caption
    occurs in several groups. For CLIP with one caption per class, the bound is the mean of ln n_u.
    """
    total = sum(
        float((how_many * torch.xlogy(mass, mass / copies)).sum())
        for mass, copies, how_many in positives.by_caption(plan)
    )
    return -total / (2 * plan.num_pairs)


def sigmoid_floor(plan: BatchPlan, positives: Positives) -> float:
    """Returns the lower bound of `sigmoid_loss`: the entropy of the labels, per caption and image.

    For hard labels the bound is 0, unless one caption is both a positive and a negative of the same image.
    """
    total = 0.0
    for mass, copies, how_many in positives.by_caption(plan):
        label = (mass / copies).clamp(max=1.0)
        entropy = -torch.xlogy(label, label) - torch.xlogy(1 - label, 1 - label)
        total += float((how_many * copies * entropy).sum())
    return total / (2 * plan.num_pairs)


def class_floor(plan: BatchPlan, positives: Positives | None) -> float:
    """Returns 0, the lower bound of `class_loss` and `finding_loss`, and their limit as logits grow."""
    del plan, positives
    return 0.0


@dataclass(frozen=True)
class PairLoss:
    """An entry of `LOSSES`: how to compute a loss, and what it needs.

    Args:
        compute: function of (batch, group, positives) that returns the loss and its gradients.
        floor: function of (plan, positives) that returns the lower bound of the loss.
        positives: function of (plan, config, group vectors, tile size) that returns the targets, or None if
            the loss reads the labels.
        has_bias: whether the logits have a bias.
    """

    compute: Callable[[GatheredBatch, Group, Any], LossGradients]
    floor: Callable[[BatchPlan, Any], float]
    positives: Callable[[BatchPlan, LossConfig, Tensor | None, int], Positives | None]
    has_bias: bool = False


def _own_pair(plan: BatchPlan, config: LossConfig, vectors: Tensor | None, tile_size: int) -> Positives:
    return GroupPositives.shared_out(plan, pair_weight=1.0)


def _labels(plan: BatchPlan, config: LossConfig, vectors: Tensor | None, tile_size: int) -> None:
    return None


def _group_shared(plan: BatchPlan, config: LossConfig, vectors: Tensor | None, tile_size: int) -> Positives:
    return GroupPositives.shared_out(plan, pair_weight=config.pair_weight)


def _group_each(plan: BatchPlan, config: LossConfig, vectors: Tensor | None, tile_size: int) -> Positives:
    return GroupPositives.each(plan, pair_weight=config.pair_weight)


def _similar(plan: BatchPlan, config: LossConfig, vectors: Tensor | None, tile_size: int) -> Positives:
    if vectors is not None:
        similarity = Cosine(vectors.double())
    elif plan.group_labels is not None and config.positives == "class":
        similarity = Jaccard(plan.group_labels)
    else:
        similarity = Cosine(torch.eye(len(plan.group_sizes), device=plan.text_of_pair.device).double())
    return SoftPositives.of(
        plan, similarity, pair_weight=config.pair_weight, temperature=config.temperature, tile_size=tile_size
    )


LOSSES: dict[str, PairLoss] = {
    "clip": PairLoss(softmax_loss, softmax_floor, _own_pair),
    "multi_positive": PairLoss(softmax_loss, softmax_floor, _group_shared),
    "soft_target": PairLoss(softmax_loss, softmax_floor, _similar),
    "siglip": PairLoss(sigmoid_loss, sigmoid_floor, _group_each, has_bias=True),
    "class_prompt": PairLoss(class_loss, class_floor, _own_pair),
    "cross_entropy": PairLoss(class_loss, class_floor, _own_pair),
}
"""Maps `loss.kind` to a loss. The last two differ only in where the class embeddings come from."""
_OVER_FINDINGS = PairLoss(finding_loss, class_floor, _labels, has_bias=True)
LOSSES_WITH_FINDINGS = LOSSES | {"class_prompt": _OVER_FINDINGS, "cross_entropy": _OVER_FINDINGS}
"""The same, if an image may have several findings."""


def loss_of(kind: str, plan: BatchPlan) -> PairLoss:
    """Returns the loss of a kind for such a batch."""
    return (LOSSES if plan.labels is None else LOSSES_WITH_FINDINGS)[kind]
