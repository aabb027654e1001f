"""Activations of the frozen image blocks, which are the input of the trainable part.

If adapters are only in upper blocks, the activations below them are constant. They are computed once per
image and view, stored under a content hash, memory-mapped, and shared by all epochs, trials, folds and
seeds. If the byte budget is too small, or every epoch has new views, the same values are computed again when
needed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import build_once, build_unless_busy, fingerprint
from trainables.config import TrialConfig
from trainables.data.cache import ImageCache
from trainables.data.transforms import augment
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.training.micro_batch import in_pieces

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 64
VERSION = 1
"""Raise this number when the same image and view would give other activations."""
CLEAN_VIEW = 0
"""The view that `augment` does not change."""


class Activations:
    """The activations below block `cut` of any image in any view, cached on disk if they fit the budget."""

    def __init__(
        self,
        encoder: DualEncoder,
        cut: int,
        images: ImageCache,
        config: TrialConfig,
        *,
        train: np.ndarray,
        store: Path,
    ) -> None:
        """Prepares the cache. Each view is computed when it is first read.

        Args:
            encoder: encoder in eval mode, whose blocks below `cut` are frozen and have no adapter.
            cut: number of frozen image blocks.
            images: decoded images; positions are those of `dataset.records`.
            config: gives augmentation, seed and budget.
            train: int64, the images used in training; only these have augmented views.
            store: root folder of the artifacts.
        """
        self.encoder, self.cut, self.images, self.store = encoder, cut, images, store
        self.num_views = (
            config.data.num_views if config.data.augmentation != "none" else 1
        )  # 0: always a new view
        self.live_seed, self.view_seed = config.seed, config.data.seed
        self.everything = np.arange(len(images))
        self.train = train
        self._views: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # row of each image or -1, values
        self.is_cached = cut > 0 and self._bytes() <= config.execution.cache_budget_gb * 2**30

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Returns activations [B, …] on the device of the encoder, with image i in view `views[i]`."""
        if not self.is_cached or not all(self._is_kept(int(view)) for view in np.unique(views)):
            return self._compute(indices, views)
        rows: list[np.ndarray] = [np.empty(0)] * len(indices)
        for view in np.unique(views):
            self._share_work(int(view))
        for view in np.unique(views):
            row_of, stored = self._view(int(view))
            for place in np.flatnonzero(views == view):
                rows[place] = stored[row_of[indices[place]]]
        values = torch.from_numpy(np.stack(rows))
        if values.dtype == torch.int16:
            values = values.view(torch.bfloat16)
        return values.to(self.encoder.log_logit_scale.device)

    def clean(self, indices: np.ndarray) -> Tensor:
        """Returns the activations of unaugmented images."""
        return self.batch(indices, np.full(len(indices), CLEAN_VIEW))

    def _is_kept(self, view: int) -> bool:
        return view == CLEAN_VIEW or view < self.num_views

    def _share_work(self, view: int) -> None:
        """Computes a view unless another trial is computing it now: that one is read once others are done."""
        if view not in self._views:
            build_unless_busy(self._folder(view), lambda aside: self._write(aside, view))

    def _view(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        if view not in self._views:
            indices = self._images_of(view)
            row_of = np.full(len(self.everything), -1)
            row_of[indices] = np.arange(len(indices))
            folder = build_once(self._folder(view), lambda aside: self._write(aside, view))
            self._views[view] = row_of, np.load(folder / "activations.npy", mmap_mode="r")
        return self._views[view]

    def _images_of(self, view: int) -> np.ndarray:
        return self.everything if view == CLEAN_VIEW else self.train

    def _folder(self, view: int) -> Path:
        drawn = None if view == CLEAN_VIEW else [self.view_seed, fingerprint(self.train.tolist())]
        weights, images = self.encoder.fingerprint, self.images.fingerprint
        key = fingerprint("activations", VERSION, weights, self.cut, images, view, drawn)
        return self.store / "activations" / key

    def _write(self, folder: Path, view: int) -> dict[str, Any]:
        indices = self._images_of(view)
        stored: np.memmap | None = None
        for start in range(0, len(indices), ROWS_AT_ONCE):
            rows = indices[start : start + ROWS_AT_ONCE]
            computed = self._compute(rows, np.full(len(rows), view)).cpu()
            # NumPy has no bfloat16, so the same bits are stored as another dtype.
            values = (computed.view(torch.int16) if computed.dtype == torch.bfloat16 else computed).numpy()
            if stored is None:
                shape = (len(indices), *values.shape[1:])
                stored = np.lib.format.open_memmap(folder / "activations.npy", "w+", values.dtype, shape)
            stored[start : start + len(rows)] = values
        if stored is not None:
            stored.flush()
        logger.info("computed %d activations of view %d below block %d", len(indices), view, self.cut)
        return {"num_images": len(indices), "view": view, "cut": self.cut}

    def _compute(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        def compute(rows: np.ndarray) -> Tensor:
            return self._piece(indices[rows], views[rows])

        return torch.cat(in_pieces(compute, np.arange(len(indices)), ROWS_AT_ONCE))

    @torch.no_grad()
    def _piece(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        images = self.images.images(indices)
        for row, (index, view) in enumerate(zip(indices, views, strict=True)):
            seed = self.view_seed if self._is_kept(int(view)) else self.live_seed
            images[row] = augment(images[row], seed=seed, view=int(view), image_index=int(index))
        pixels = self.encoder.pixels(torch.from_numpy(images))
        return self.encoder.encode_image_prefix(pixels, self.cut)

    def _bytes(self) -> int:
        one = self._compute(self.everything[:1], np.array([CLEAN_VIEW]))
        return (
            one[0].numel()
            * one.element_size()
            * (len(self.everything) + max(self.num_views - 1, 0) * len(self.train))
        )
