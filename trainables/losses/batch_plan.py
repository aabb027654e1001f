# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""Which rank embeds what: integers only, the same on every rank, a pure function of the global batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


def share(total: int, *, rank: int, world_size: int) -> range:
    """Returns the contiguous positions of `total` that are `rank`'s; sizes differ by at most 1."""
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def tiles(rows: range, size: int) -> Iterator[range]:
    """Cuts contiguous rows into pieces of `size`; the last one may be shorter."""
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


@dataclass(frozen=True)
class BatchPlan:
    """The global batch without its content: who is whose positive, and which rank embeds what.

    Pair i is image i with caption `text_of_pair[i]`. Equal captions are one row among the `num_texts`
    distinct ones, so they are embedded once, wherever in the batch they stand.

    Args:
        text_of_pair: int64 [B], in 0…U-1.
        groups: int64 [B]; pairs of equal value are positives of each other (their class, or their caption).
        rank: of this process.
        world_size: number of processes.
        image_shares: contiguous rows of the B images, one range a rank; none = even shares.
        text_shares: contiguous rows of the U distinct captions, one range a rank; none = even shares.
        classes: int64 [B], what recall counts by; none = `groups`.
        num_texts: U; 0 = those that occur. More where classes stand for captions and some have no image here.
    """

    text_of_pair: Tensor
    groups: Tensor
    rank: int = 0
    world_size: int = 1
    image_shares: tuple[range, ...] = ()
    text_shares: tuple[range, ...] = ()
    classes: Tensor | None = None
    num_texts: int = 0

    def __post_init__(self) -> None:
        if not self.num_texts:
            object.__setattr__(self, "num_texts", int(self.text_of_pair.max()) + 1)
        if len(self.groups) != self.num_pairs:
            raise ValueError(f"{self.num_pairs} pairs but {len(self.groups)} group labels")
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
        """B."""
        return len(self.text_of_pair)

    @property
    def image_share(self) -> range:
        """Rows of the images that this rank embeds."""
        return self.image_shares[self.rank]

    @property
    def text_share(self) -> range:
        """Rows of the distinct captions that this rank embeds."""
        return self.text_shares[self.rank]

    @cached_property
    def copies(self) -> Tensor:
        """How many pairs carry each distinct caption, int64 [U]: n_u."""
        return torch.bincount(self.text_of_pair, minlength=self.num_texts)

    @cached_property
    def group_of_pair(self) -> Tensor:
        """Groups renumbered 0…C-1, int64 [B]."""
        return torch.unique(self.groups, return_inverse=True)[1]

    @cached_property
    def group_sizes(self) -> Tensor:
        """Pairs in each group, int64 [C]: n_g."""
        return torch.bincount(self.group_of_pair)

    @cached_property
    def memberships(self) -> Memberships:
        """Which captions occur in which group, and how often."""
        codes, sizes = torch.unique(
            self.membership_code(self.group_of_pair, self.text_of_pair), return_counts=True
        )
        return Memberships(codes, codes // self.num_texts, codes % self.num_texts, sizes)

    def membership_code(self, groups: Tensor, texts: Tensor) -> Tensor:
        """Returns one integer for each (group, caption), both int64 [n]."""
        return groups * self.num_texts + texts

    def to(self, device: torch.device) -> BatchPlan:
        """Returns the plan with its integers on `device`."""
        return replace(
            self,
            text_of_pair=self.text_of_pair.to(device),
            groups=self.groups.to(device),
            classes=None if self.classes is None else self.classes.to(device),
        )


@dataclass(frozen=True)
class Memberships:
    """The E ≤ B combinations (group g, caption u) that occur, int64 [E]; `sizes` counts their pairs: m_gu."""

    codes: Tensor
    groups: Tensor
    texts: Tensor
    sizes: Tensor
