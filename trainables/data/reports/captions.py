"""Captions from reports: sentences of the chosen sections, drawn anew for each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from trainables.data.counter_rng import counter_rng


@dataclass(frozen=True)
class ReportCaptions:
    """The sentences of the reports of train images, of which captions are drawn.

    Attributes:
        sentences: image_id → sentences, in order; images without a usable report are missing.
        drawn_as: image_id → the number that selects its draws. Images with equal sentences share it, so that
            they have equal captions and are no negatives of each other.
        max_sentences: largest number of sentences in a caption; None = all sentences.
    """

    sentences: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    drawn_as: Mapping[str, int] = field(default_factory=dict[str, int])
    max_sentences: int | None = None

    def caption(self, image_id: str, *, seed: int, epoch: int) -> str | None:
        """Returns one to `max_sentences` sentences in their order, or None without a usable report."""
        sentences = self.sentences.get(image_id)
        if sentences is None or self.max_sentences is None:
            return None if sentences is None else " ".join(sentences)
        rng = counter_rng("report", seed, epoch, self.drawn_as[image_id])
        number = int(rng.integers(1, min(self.max_sentences, len(sentences)) + 1))
        places = np.sort(rng.choice(len(sentences), size=number, replace=False))
        return " ".join(sentences[place] for place in places.tolist())
