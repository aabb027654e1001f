# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch's own types are partial)
"""The gathered batch, and two passes over its logits in tiles, so that the full matrix is never stored.

Pass 1 computes the normalisers and the loss, from this rank's images and all captions. Pass 2 computes the
gradient of the embeddings, from every tile that contains an image or a caption of this rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.losses.batch_plan import BatchPlan, tiles

TileWeights = Callable[[Tensor, range, range], Tensor]
"""Function of (logits, rows, columns): returns each pair's gradient weight; may overwrite the logits."""


@dataclass(frozen=True)
class GatheredBatch:
    """The embeddings of the whole batch, gathered on every rank.

    Args:
        images: I [B, D], unit length, float32 or float64.
        texts: T [U, D], one row per distinct caption.
        plan: the plan of the batch, on the same device.
        image_rows: rows of `images` whose gradient this rank computes; together the ranks cover the batch.
        text_rows: rows of `texts` whose gradient this rank computes; empty if the text tower does not train.
        logit_scale: s, the multiplier.
        logit_bias: b, [] or one per text [U]; None for losses without a bias.
        tile_size: rows and columns of a tile.
    """

    images: Tensor
    texts: Tensor
    plan: BatchPlan
    image_rows: range
    text_rows: range
    logit_scale: float
    logit_bias: Tensor | None
    tile_size: int

    def logits(self, rows: range, columns: range) -> Tensor:
        """Returns one tile of s I Tᵀ + b."""
        logits = (take(self.images, rows) * self.logit_scale) @ take(self.texts, columns).T
        if self.logit_bias is None:
            return logits
        return logits.add_(take(self.logit_bias, columns) if self.logit_bias.ndim else self.logit_bias)

    def no_gradients(self) -> tuple[Tensor, Tensor]:
        """Returns zeros for the gradients of this rank's images [b, D] and texts [u, D]."""
        dimension = self.images.shape[1]
        return (
            self.images.new_zeros(len(self.image_rows), dimension),
            self.texts.new_zeros(len(self.text_rows), dimension),
        )

    def own_logits(self) -> Iterator[tuple[slice, range, Tensor]]:
        """Yields the tiles of this rank's images: positions among its images, columns, logits."""
        for rows in tiles(self.image_rows, self.tile_size):
            for columns in tiles(range(len(self.texts)), self.tile_size):
                yield self.own_image(rows), columns, self.logits(rows, columns)

    def own_image(self, rows: range) -> slice:
        """Returns where rows of the global batch stand in this rank's part of the images."""
        return slice(rows.start - self.image_rows.start, rows.stop - self.image_rows.start)

    def own_text(self, rows: range) -> slice:
        """Returns the positions of distinct captions among this rank's captions."""
        return slice(rows.start - self.text_rows.start, rows.stop - self.text_rows.start)


class NearestCaption:
    """The nearest caption so far of each image of this rank."""

    def __init__(self, batch: GatheredBatch) -> None:
        self.logits = batch.images.new_full((len(batch.image_rows),), -torch.inf)
        self.texts = torch.zeros_like(self.logits, dtype=torch.int64)

    def see(self, here: slice, columns: range, logits: Tensor) -> None:
        """Updates the maximum with one tile."""
        largest, place = logits.max(1)
        is_nearer = largest > self.logits[here]
        self.logits[here] = torch.where(is_nearer, largest, self.logits[here])
        self.texts[here] = torch.where(is_nearer, place + columns.start, self.texts[here])

    def num_hits(self, batch: GatheredBatch) -> Tensor:
        """Counts the images whose nearest caption belongs to a pair of the same class, float64 []."""
        plan = batch.plan
        classes = plan.groups if plan.classes is None else plan.classes
        carried = plan.membership_code(classes, plan.text_of_pair)
        nearest = plan.membership_code(take(classes, batch.image_rows), self.texts)
        return torch.isin(nearest, carried).sum().double()

    def num_present(self, batch: GatheredBatch) -> Tensor:
        """Counts the images whose nearest text is a finding that they have, float64 []."""
        assert batch.plan.labels is not None
        labels = take(batch.plan.labels, batch.image_rows)
        return (labels.gather(1, self.texts.unsqueeze(1)) == 1).sum().double()


def add_products(batch: GatheredBatch, images: Tensor, texts: Tensor, *, weights: TileWeights) -> None:
    """Adds W T to `images` [b, D] and Wᵀ I to `texts` [u, D], for this rank's rows. `weights` computes W.

    A tile is used for both towers if its rows and its columns belong to this rank. A single rank therefore
    computes every tile once: 8 B U D operations with pass 1, the minimum without storing the logits.
    """
    for rows, owes_images in _cut(len(batch.images), batch.image_rows, batch.tile_size):
        for columns, owes_texts in _cut(len(batch.texts), batch.text_rows, batch.tile_size):
            if not (owes_images or owes_texts):
                continue
            weight = weights(batch.logits(rows, columns), rows, columns)
            if owes_images:
                images[batch.own_image(rows)].addmm_(weight, take(batch.texts, columns))
            if owes_texts:
                texts[batch.own_text(columns)].addmm_(weight.T, take(batch.images, rows))


def inner_product(batch: GatheredBatch, images: Tensor) -> Tensor:
    """Returns Σ_i I_i · X_i over this rank's images, for X = `images` [b, D]; float64 []."""
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    for rows in tiles(batch.image_rows, batch.tile_size):
        total += (take(batch.images, rows) * images[batch.own_image(rows)]).sum(1).double().sum()
    return total


def take(tensor: Tensor, rows: range) -> Tensor:
    """Returns contiguous rows, as a view."""
    return tensor[rows.start : rows.stop]


def _cut(total: int, own: range, size: int) -> Iterator[tuple[range, bool]]:
    """Yields tiles of all rows, cut at the borders of `own`, and whether each tile is inside `own`."""
    for part, is_own in ((range(own.start), False), (own, True), (range(own.stop, total), False)):
        for tile in tiles(part, size):
            yield tile, is_own
