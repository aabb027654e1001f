# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""The linear half of every loss: where positives pull, from sums over groups instead of B × B targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.losses.batch_plan import BatchPlan, tiles
from trainables.losses.tiles import GatheredBatch, take


@dataclass(frozen=True)
class Positives:
    """Targets t_ij = w [i = j] + v_g [i and j in group g]: as many numbers as groups.

    Args:
        pair_weight: w.
        group_weights: v, float64 [C].
    """

    pair_weight: float
    group_weights: Tensor

    @classmethod
    def shared_out(cls, plan: BatchPlan, *, pair_weight: float) -> Positives:
        """A row's targets sum to 1: w for its pair, the rest shared by its group (softmax losses)."""
        return cls(pair_weight, (1 - pair_weight) / plan.group_sizes.double())

    @classmethod
    def each(cls, plan: BatchPlan, *, pair_weight: float) -> Positives:
        """Every pair of the group is a positive in its own right (sigmoid losses)."""
        return cls(pair_weight, torch.full_like(plan.group_sizes, 1 - pair_weight, dtype=torch.float64))

    def mass(self, plan: BatchPlan, rows: range) -> Tensor:
        """Returns Σ_ij t_ij over the images `rows`, float64 []."""
        by_group = self.group_weights * plan.group_sizes
        return self.pair_weight * len(rows) + by_group[take(plan.group_of_pair, rows)].sum()

    def by_caption(self, plan: BatchPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the values of q_iu = Σ_{j carries u} t_ij but 0, their n_u, and how many (i, u) have them.

        All float64 [2 E]: for each group and each of its captions the m_gu images that carry it themselves,
        and then the group's other images.
        """
        members = plan.memberships
        sizes, group_sizes = members.sizes.double(), plan.group_sizes[members.groups].double()
        others = self.group_weights[members.groups] * sizes
        copies = plan.copies[members.texts].double()
        values = torch.cat([self.pair_weight + others, others])
        return values, copies.repeat(2), torch.cat([sizes, group_sizes - sizes])


def pull_to_positives(batch: GatheredBatch, positives: Positives) -> tuple[Tensor, Tensor]:
    """Returns -Y [b, D] and -X [u, D] of this rank's rows, the gradient of -1/B Σ_ij t_ij I_i · T_u(j).

    Y_i = 1/B [w T_u(i) + v_g(i) Σ_{j in g(i)} T_u(j)]; X likewise, over the pairs that carry a caption.
    O(B D) operations; memory is one sum a group.
    """
    plan, dimension = batch.plan, batch.images.shape[1]
    images = batch.images.new_zeros(len(batch.image_rows), dimension)
    texts = batch.images.new_zeros(len(batch.text_rows), dimension)
    if positives.pair_weight > 0:
        _pull_to_pair(batch, images, texts, positives.pair_weight / plan.num_pairs)
    if positives.pair_weight < 1:
        weights = (positives.group_weights / plan.num_pairs).to(images.dtype)
        _pull_to_group(batch, images, texts, weights)
    return images, texts


def _pull_to_pair(batch: GatheredBatch, images: Tensor, texts: Tensor, weight: float) -> None:
    text_of_pair, first = batch.plan.text_of_pair, batch.text_rows.start
    for rows in tiles(batch.image_rows, batch.tile_size):
        images[batch.own_image(rows)].sub_(batch.texts[take(text_of_pair, rows)], alpha=weight)
    if batch.text_rows:
        is_own = (text_of_pair >= first) & (text_of_pair < batch.text_rows.stop)
        pairs = is_own.nonzero().squeeze(1)
        for some in pairs.split(batch.tile_size):
            texts.index_add_(0, text_of_pair[some] - first, batch.images[some], alpha=-weight)


def _pull_to_group(batch: GatheredBatch, images: Tensor, texts: Tensor, weights: Tensor) -> None:
    plan, members, first = batch.plan, batch.plan.memberships, batch.text_rows.start
    sizes = members.sizes.to(images.dtype).unsqueeze(1)
    text_sums = images.new_zeros(len(weights), images.shape[1])
    for some in tiles(range(len(sizes)), batch.tile_size):
        captions = batch.texts[take(members.texts, some)] * take(sizes, some)
        text_sums.index_add_(0, take(members.groups, some), captions)
    text_sums.mul_(weights.unsqueeze(1))
    for rows in tiles(batch.image_rows, batch.tile_size):
        images[batch.own_image(rows)].sub_(text_sums[take(plan.group_of_pair, rows)])
    if batch.text_rows:
        image_sums = text_sums.zero_().index_add_(0, plan.group_of_pair, batch.images)
        image_sums.mul_(weights.unsqueeze(1))
        is_own = (members.texts >= first) & (members.texts < batch.text_rows.stop)
        for some in is_own.nonzero().squeeze(1).split(batch.tile_size):
            pulled = image_sums[members.groups[some]] * sizes[some]
            texts.index_add_(0, members.texts[some] - first, pulled, alpha=-1)
