# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""The term of every loss that is linear in the logits, from sums over groups instead of B × B targets.

Targets are t_ij = w [i = j] + M(g_i, g_j): one part for the pair itself, one that depends only on groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.losses.batch_plan import BatchPlan, tiles
from trainables.losses.similarity import Similarity
from trainables.losses.tiles import GatheredBatch, take


@dataclass(frozen=True)
class Positives(ABC):
    """The targets of one batch.

    Args:
        pair_weight: w, the weight of a pair's own caption.
    """

    pair_weight: float

    @abstractmethod
    def mix(self, sums: Tensor) -> Tensor:
        """Returns Σ_l M(k, l) sums_l for every group k, [C, D] → [C, D]; may overwrite the sums.

        M is symmetric, or is replaced by its symmetric part: a loss term linear in S depends on no other
        part.
        """

    @abstractmethod
    def by_caption(self, plan: BatchPlan) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the nonzero values of q_iu, the n_u of each value, and how many (i, u) have this value.

        q_iu is the sum of t_ij over pairs j with caption u. Both directions are counted, images to captions
        and captions to images, so Σ q = 2 B. All tensors are float64 and have equal length.
        """


@dataclass(frozen=True)
class GroupPositives(Positives):
    """Targets t_ij = w [i = j] + v_g [i and j in group g], with one number v_g per group.

    Args:
        group_weights: v, float64 [C].
    """

    group_weights: Tensor

    @classmethod
    def shared_out(cls, plan: BatchPlan, *, pair_weight: float) -> GroupPositives:
        """Returns targets that sum to 1 over a row: w for the pair, 1 - w for its group (softmax losses)."""
        return cls(pair_weight, (1 - pair_weight) / plan.group_sizes.double())

    @classmethod
    def each(cls, plan: BatchPlan, *, pair_weight: float) -> GroupPositives:
        """Returns targets in which every pair of the group is a separate positive (sigmoid losses)."""
        return cls(pair_weight, torch.full_like(plan.group_sizes, 1 - pair_weight, dtype=torch.float64))

    def mix(self, sums: Tensor) -> Tensor:
        """Multiplies each group's sum by v; M is diagonal."""
        return sums.mul_(self.group_weights.to(sums.dtype).unsqueeze(1))

    def mass(self, plan: BatchPlan, rows: range) -> Tensor:
        """Returns Σ_ij t_ij over the images `rows`, float64 []."""
        by_group = self.group_weights * plan.group_sizes
        return self.pair_weight * len(rows) + by_group[take(plan.group_of_pair, rows)].sum()

    def by_caption(self, plan: BatchPlan) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the images of a group that have the caption, then the group's other images; [2 E]."""
        members = plan.memberships
        sizes, group_sizes = members.sizes.double(), plan.group_sizes[members.groups].double()
        others = self.group_weights[members.groups] * sizes
        copies = plan.copies[members.texts].double()
        values = torch.cat([self.pair_weight + others, others])
        # Both directions are equal, because M is symmetric.
        yield values, copies.repeat(2), 2 * torch.cat([sizes, group_sizes - sizes])


@dataclass(frozen=True)
class SoftPositives(Positives):
    """Targets by similarity (MedCLIP, Wang et al. 2022, §3.3), normalised separately for each direction.

        R_kl = exp(similarity_kl / τ),  Z_k = Σ_l n_l R_kl
        t_ij = w [i = j] + (1 - w) R / Z(g_i) by row, and R / Z(g_j) by column

    R is never stored: its tiles are computed again when they are needed.

    Args:
        similarity: the similarities of the groups.
        temperature: τ.
        normalisers: Z e^(-1/τ), float64 [C], the sums over a row of R.
        tile_size: rows and columns of a tile of R.
    """

    similarity: Similarity
    temperature: float
    normalisers: Tensor
    tile_size: int

    @classmethod
    def of(
        cls,
        plan: BatchPlan,
        similarity: Similarity,
        *,
        pair_weight: float,
        temperature: float,
        tile_size: int,
    ) -> SoftPositives:
        """Returns the targets for these similarities, with their normalisers."""
        sizes = plan.group_sizes.double()
        unnormalised = cls(pair_weight, similarity, temperature, torch.ones_like(sizes), tile_size)
        normalisers = torch.zeros_like(sizes)
        for rows, columns, weights in unnormalised._tiles():
            take(normalisers, rows).add_(weights @ take(sizes, columns))
        return cls(pair_weight, similarity, temperature, normalisers, tile_size)

    def mix(self, sums: Tensor) -> Tensor:
        """Multiplies by M = (1 - w) R (1/Z_k + 1/Z_l) / 2, the mean of both directions."""
        mixed = torch.zeros_like(sums)
        for rows, columns, weights in self._tiles():
            by_row, by_column = (1 / take(self.normalisers, part) for part in (rows, columns))
            weights.mul_((by_row.unsqueeze(1) + by_column) * ((1 - self.pair_weight) / 2))
            take(mixed, rows).addmm_(weights.to(sums.dtype), take(sums, columns))
        return mixed

    def by_caption(self, plan: BatchPlan) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the values for the images of a few groups at a time, for every caption."""
        members, sizes = plan.memberships, plan.memberships.sizes.double()
        copies, num_groups = plan.copies.double(), len(plan.group_sizes)
        for rows in tiles(range(num_groups), max(1, self.tile_size**2 // plan.num_pairs)):
            weights = self._weights(rows, range(num_groups)) * (1 - self.pair_weight)
            is_carried = torch.zeros(len(rows), plan.num_texts, dtype=torch.float64, device=sizes.device)
            here = (members.groups >= rows.start) & (members.groups < rows.stop)
            is_carried[members.groups[here] - rows.start, members.texts[here]] = sizes[here]
            others = take(plan.group_sizes, rows).double().unsqueeze(1) - is_carried
            for normalised in (
                weights / take(self.normalisers, rows).unsqueeze(1),
                weights / self.normalisers,
            ):
                values = torch.zeros_like(is_carried)
                values.index_add_(1, members.texts, normalised[:, members.groups] * sizes)
                for mass, how_many in ((values + self.pair_weight, is_carried), (values, others)):
                    yield mass.flatten(), copies.repeat(len(rows)), how_many.flatten()

    def _tiles(self) -> Iterator[tuple[range, range, Tensor]]:
        everything = range(len(self.similarity))
        for rows in tiles(everything, self.tile_size):
            for columns in tiles(everything, self.tile_size):
                yield rows, columns, self._weights(rows, columns)

    def _weights(self, rows: range, columns: range) -> Tensor:
        """Returns R e^(-1/τ), which is at most 1."""
        return self.similarity.tile(rows, columns).sub_(1).div_(self.temperature).exp_()


def pull_to_positives(batch: GatheredBatch, positives: Positives) -> tuple[Tensor, Tensor]:
    """Returns -Y [b, D] and -X [u, D] for this rank's rows: the gradient of -1/B Σ_ij t_ij I_i · T_u(j).

    Y_i = 1/B [w T_u(i) + Σ_l M(g_i, l) Σ_{j in l} T_u(j)]; X likewise, summed over the pairs with a caption.
    """
    images, texts = batch.no_gradients()
    if positives.pair_weight > 0:
        _pull_to_pair(batch, images, texts, positives.pair_weight / batch.plan.num_pairs)
    if positives.pair_weight < 1:
        _pull_to_group(batch, images, texts, positives)
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


def _pull_to_group(batch: GatheredBatch, images: Tensor, texts: Tensor, positives: Positives) -> None:
    plan, members, first = batch.plan, batch.plan.memberships, batch.text_rows.start
    sizes = members.sizes.to(images.dtype).unsqueeze(1)
    text_sums = images.new_zeros(len(plan.group_sizes), images.shape[1])
    for some in tiles(range(len(sizes)), batch.tile_size):
        captions = batch.texts[take(members.texts, some)] * take(sizes, some)
        text_sums.index_add_(0, take(members.groups, some), captions)
    pulled = positives.mix(text_sums).div_(plan.num_pairs)
    for rows in tiles(batch.image_rows, batch.tile_size):
        images[batch.own_image(rows)].sub_(pulled[take(plan.group_of_pair, rows)])
    if batch.text_rows:
        image_sums = torch.zeros_like(text_sums).index_add_(0, plan.group_of_pair, batch.images)
        pulled = positives.mix(image_sums).div_(plan.num_pairs)
        is_own = (members.texts >= first) & (members.texts < batch.text_rows.stop)
        for some in is_own.nonzero().squeeze(1).split(batch.tile_size):
            own = pulled[members.groups[some]] * sizes[some]
            texts.index_add_(0, members.texts[some] - first, own, alpha=-1)
