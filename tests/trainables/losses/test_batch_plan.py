"""Shares and memberships: the integers that every rank must agree on."""

from __future__ import annotations

import pytest
import torch

from trainables.losses.batch_plan import BatchPlan, share


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("total", [0, 1, 3, 16, 17])
def test_shares_are_contiguous_even_and_cover_everything(total: int, world_size: int) -> None:
    shares = [share(total, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [row for rows in shares for row in rows] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_memberships_count_captions_of_groups_whatever_the_labels_are() -> None:
    plan = BatchPlan(torch.tensor([0, 1, 0, 0, 2]), torch.tensor([70, -3, 70, -3, 70]))
    members = plan.memberships
    seen = {tuple(row) for row in torch.stack([members.groups, members.texts, members.sizes], dim=1).tolist()}
    assert seen == {(1, 0, 2), (1, 2, 1), (0, 1, 1), (0, 0, 1)}
    assert plan.copies.tolist() == [3, 1, 1]
    assert plan.group_sizes.tolist() == [2, 3]


@pytest.mark.parametrize(
    "image_shares",
    [
        (range(2), range(3, 5)),
        (range(3), range(2, 5)),
        (range(2), range(2, 4)),
        (range(5),),
        (range(1, 2), range(2, 5)),
    ],
    ids=["gap", "overlap", "too short", "too few", "late start"],
)
def test_shares_that_do_not_cut_the_batch_are_refused(image_shares: tuple[range, ...]) -> None:
    texts = torch.arange(5)
    with pytest.raises(ValueError, match=r"image_shares=.*must cut 5 rows into 2 contiguous ranges"):
        BatchPlan(texts, texts, world_size=2, image_shares=image_shares)


def test_labels_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="5 pairs but 4 group labels"):
        BatchPlan(torch.arange(5), torch.arange(4))
