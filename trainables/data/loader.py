"""Global batches of image–caption pairs, in an order that depends only on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainables.config import TrialConfig
from trainables.data.counter_rng import counter_rng
from trainables.data.records import Dataset
from trainables.data.tasks import TASKS
from trainables.data.text import captions_for
from trainables.data.transforms import view_of
from trainables.errors import DataError


@dataclass(frozen=True)
class GlobalBatch:
    """The pairs of one optimiser step. Every rank gets the whole batch and works on one part."""

    step: int
    epoch: int
    indices: np.ndarray  # int64 [B], positions in `dataset.records`
    views: np.ndarray  # int64 [B], for `transforms.augment`
    captions: list[str]  # [B]; empty if nothing reads captions
    classes: np.ndarray  # int64 [B]: the class, or the number of the set of findings in this batch
    labels: np.ndarray | None = None  # int8 [B, K]: 1, 0, -1 (unknown) of each finding; None for multiclass

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def distinct_captions(self) -> dict[str, int]:
        """Returns each distinct caption → the first pair that has this caption, in order of occurrence."""
        first_pair: dict[str, int] = {}
        for pair, caption in enumerate(self.captions):
            first_pair.setdefault(caption, pair)
        return first_pair

    @cached_property
    def text_of_pair(self) -> np.ndarray:
        """Returns the position of each pair's caption among the distinct captions, int64 [B]."""
        places = {caption: place for place, caption in enumerate(self.distinct_captions)}
        return np.array([places[caption] for caption in self.captions], dtype=np.int64)


def global_batches(dataset: Dataset, config: TrialConfig, *, start_step: int = 0) -> Iterator[GlobalBatch]:
    """Yields the global batches from `start_step` on; skipping earlier batches does not change them.

    Every epoch contains each train image once. The last batch of an epoch may be smaller. A single remaining
    pair joins the batch before, because a contrastive loss needs two pairs.

    Raises:
        DataError: there are fewer than two train images.
    """
    train = dataset.indices("train")
    size, num_steps = config.global_batch_size, steps_per_epoch(len(train), config.global_batch_size)
    for epoch in range(start_step // num_steps, config.num_epochs):
        order = counter_rng("order", config.seed, epoch).permutation(train)
        for batch in range(num_steps):
            step = epoch * num_steps + batch
            if step < start_step:
                continue
            indices = order[batch * size : None if batch == num_steps - 1 else (batch + 1) * size]
            targets = dataset.targets(indices)
            yield GlobalBatch(
                step=step,
                epoch=epoch,
                indices=indices,
                views=_views(indices, config, epoch),
                captions=captions_for(
                    dataset, indices, kind=config.data.captions, seed=config.seed, epoch=epoch
                )
                if config.reads_captions
                else [""] * len(indices),
                classes=TASKS[dataset.task].groups(targets),
                labels=targets if targets.ndim == 2 else None,
            )


def steps_per_epoch(num_train: int, global_batch_size: int) -> int:
    """Returns the number of global batches in an epoch."""
    if num_train < 2:
        raise DataError(
            f"split 'train' has {num_train} images; a contrastive loss needs a pair to contrast with"
        )
    full, tail = divmod(num_train, global_batch_size)
    return max(full + (tail >= 2), 1)


def _views(indices: np.ndarray, config: TrialConfig, epoch: int) -> np.ndarray:
    if config.data.augmentation == "none":
        return np.zeros_like(indices)
    return np.array(
        [view_of(config.seed, epoch, int(i), config.data.num_views) for i in indices], dtype=np.int64
    )
