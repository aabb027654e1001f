# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""Decides which rows each rank embeds. Every rank computes the same integers from the global batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


def share(total: int, *, rank: int, world_size: int) -> range:
    """Returns the contiguous part of `range(total)` assigned to `rank`; part sizes differ by at most 1."""
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def tiles(rows: range, size: int) -> Iterator[range]:
    """Yields contiguous rows in pieces of `size`; the last piece may be shorter."""
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


@dataclass(frozen=True)
class BatchPlan:
    """The integers of a global batch: which pairs are positives, and which rank embeds which rows.

    Pair i is image i with caption `text_of_pair[i]`. Equal captions share one row of the `num_texts`
    distinct captions, so each distinct caption is embedded once.

    Args:
        text_of_pair: int64 [B], the distinct caption of each pair, in 0…U-1.
        groups: int64 [B], the class or the caption of each pair; pairs of one group are positives.
        rank: rank of this process.
        world_size: number of processes.
        image_shares: contiguous rows of the B images, one range per rank; () = even ranges.
        text_shares: contiguous rows of the U distinct captions, one range per rank; () = even ranges.
        classes: int64 [B], the classes that recall uses; None = `groups`.
        num_texts: U; 0 = the captions that occur. U is larger if classes replace captions and a class has
            no image in the batch.
        labels: int8 [B, K], 1, 0 or -1 (unknown) for each finding of each pair; None if classes exclude each
            other. Losses over findings compare every image with K texts, and read no `text_of_pair`.
    """

    text_of_pair: Tensor
    groups: Tensor
    rank: int = 0
    world_size: int = 1
    image_shares: tuple[range, ...] = ()
    text_shares: tuple[range, ...] = ()
    classes: Tensor | None = None
    num_texts: int = 0
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.num_texts:
            object.__setattr__(self, "num_texts", int(self.text_of_pair.max()) + 1)
        if len(self.groups) != self.num_pairs:
            raise ValueError(f"{self.num_pairs} pairs but {len(self.groups)} group labels")
        if self.labels is not None and len(self.labels) != self.num_pairs:
            raise ValueError(f"{self.num_pairs} pairs but {len(self.labels)} rows of labels")
        for name, total in (("image_shares", self.num_pairs), ("text_shares", self.num_texts)):
            shares = getattr(self, name) or tuple(
                share(total, rank=rank, world_size=self.world_size) for rank in range(self.world_size)
            )
            starts = [0, *(part.stop for part in shares)]
            if [part.start for part in shares] != starts[: self.world_size] or starts[-1] != total:
                raise ValueError(
                    f"{name}={shares}: must cut {total} rows into {self.world_size} contiguous ranges"
                )
            object.__setattr__(self, name, shares)

    @property
    def num_pairs(self) -> int:
        """Returns B, the number of pairs."""
        return len(self.text_of_pair)

    @property
    def image_share(self) -> range:
        """Returns the image rows that this rank embeds."""
        return self.image_shares[self.rank]

    @property
    def text_share(self) -> range:
        """Returns the rows of distinct captions that this rank embeds."""
        return self.text_shares[self.rank]

    @cached_property
    def copies(self) -> Tensor:
        """Returns n_u, the number of pairs with each distinct caption, int64 [U]."""
        return torch.bincount(self.text_of_pair, minlength=self.num_texts)

    @cached_property
    def group_of_pair(self) -> Tensor:
        """Returns the group of each pair, renumbered 0…C-1, int64 [B]."""
        return torch.unique(self.groups, return_inverse=True)[1]

    @cached_property
    def group_sizes(self) -> Tensor:
        """Returns n_g, the number of pairs in each group, int64 [C]."""
        return torch.bincount(self.group_of_pair)

    @cached_property
    def group_labels(self) -> Tensor | None:
        """Returns the labels of each group, int8 [C, K], or None. All pairs of a group have equal labels."""
        if self.labels is None:
            return None
        first = self.labels.new_zeros(len(self.group_sizes), self.labels.shape[1])
        first[self.group_of_pair] = self.labels
        return first

    @cached_property
    def memberships(self) -> Memberships:
        """Returns which captions occur in which group, and how often."""
        codes, sizes = torch.unique(
            self.membership_code(self.group_of_pair, self.text_of_pair), return_counts=True
        )
        return Memberships(codes, codes // self.num_texts, codes % self.num_texts, sizes)

    def membership_code(self, groups: Tensor, texts: Tensor) -> Tensor:
        """Returns a distinct integer for each (group, caption), int64 [n]."""
        return groups * self.num_texts + texts

    def to(self, device: torch.device) -> BatchPlan:
        """Returns the plan with its integers on `device`."""
        return replace(
            self,
            text_of_pair=self.text_of_pair.to(device),
            groups=self.groups.to(device),
            classes=None if self.classes is None else self.classes.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )


@dataclass(frozen=True)
class Memberships:
    """The E combinations (group g, caption u) that occur, int64 [E]; `sizes` counts the pairs m_gu."""

    codes: Tensor
    groups: Tensor
    texts: Tensor
    sizes: Tensor
