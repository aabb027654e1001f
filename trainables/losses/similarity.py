# pyright: reportUnknownMemberType=false
# (torch's own types are partial)
"""The similarity of groups for soft targets: of their captions, or of their sets of findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainables.losses.tiles import take


class Similarity(Protocol):
    """The similarities of C groups. They are symmetric, at most 1, and 1 for a group and itself."""

    def __len__(self) -> int:
        """Returns C."""
        ...

    def tile(self, rows: range, columns: range) -> Tensor:
        """Returns the similarities of some groups with others, float64 [rows, columns], as a new tensor."""
        ...


@dataclass(frozen=True)
class Cosine(Similarity):
    """The cosine of vectors, such as the embeddings of captions.

    Args:
        vectors: float64 [C, d], unit length.
    """

    vectors: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def tile(self, rows: range, columns: range) -> Tensor:
        """Returns the inner products of unit vectors."""
        return take(self.vectors, rows) @ take(self.vectors, columns).T


@dataclass(frozen=True)
class Jaccard(Similarity):
    """The Jaccard similarity of sets of findings: the findings in both sets, divided by those in either set.

    Only the findings whose label is known in both sets count. If none of them is present, the similarity is
    0, because nothing is known that the sets share. A set and itself have similarity 1.

    Args:
        labels: int8 [C, K], 1, 0 or -1 (unknown); all rows differ.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def tile(self, rows: range, columns: range) -> Tensor:
        """Returns |A ∩ B| / |A ∪ B| over the findings that are known in both sets."""
        here, there = take(self.labels, rows), take(self.labels, columns)
        is_here, is_there = (here == 1).double(), (there == 1).double()
        in_both = is_here @ is_there.T
        in_either = is_here @ (there >= 0).double().T + (here >= 0).double() @ is_there.T - in_both
        similarity = in_both.div_(in_either.clamp_(min=1.0))
        similarity.diagonal(rows.start - columns.start).fill_(
            1.0
        )  # also if no finding is known to be present
        return similarity
