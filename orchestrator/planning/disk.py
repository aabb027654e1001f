"""Estimates the disk space that a sweep needs, and checks that the disk has room."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.planning.costs import Datasets
from orchestrator.storage.paths import HOME_VARIABLE
from trainables.config import TrialConfig
from trainables.models.catalogue.registry import model_preprocessing
from trainables.training.footprint import Footprint, footprint

if TYPE_CHECKING:
    from trainables.data.records import Dataset

EMBEDDING_BYTES = 4 * 2048
"""Bytes of the pooled and joint float32 embeddings of an image; an upper estimate for all encoders."""
KEPT_CHECKPOINTS = 3
"""Maximum number for a running trial: two complete checkpoints, and one that is being written."""
COPIES_OF_ADAPTER = 2
"""One copy is in the store, one is among the results of the trial."""


@dataclass(frozen=True)
class DiskEstimate:
    """Upper estimate of the space that a sweep needs, and the free space, in bytes.

    Attributes:
        activations: caches of activations, limited by `execution.cache_budget_gb`.
        results: decoded images, checkpoints, adapters and embeddings.
        free: free space on the disk of the home folder.
    """

    activations: int
    results: int
    free: int

    @property
    def total(self) -> int:
        """All bytes that a sweep writes."""
        return self.activations + self.results

    def __str__(self) -> str:
        """Returns text such as `at most 270 GB, 74 GB free`."""
        return f"at most {_gigabytes(self.total)}, {_gigabytes(self.free)} free"

    def shortage(self) -> str:
        """Returns what to change if the disk is too small; empty if the disk has room."""
        if self.total <= self.free:
            return ""
        ways = [
            f"free {_gigabytes(self.total - self.free)}",
            f"set {HOME_VARIABLE} to a folder on a larger disk",
        ]
        if self.results <= self.free and self.activations:
            ways.append(
                f"cache no activations (--set execution.cache_budget_gb=0): the sweep then writes at most "
                f"{_gigabytes(self.results)}, and trials take longer"
            )
        return (
            f"disk: the sweep may write {_gigabytes(self.total)}, and {_home()} has {_gigabytes(self.free)} "
            f"free; {', or '.join(ways)}"
        )


def estimate_disk(
    configs: list[TrialConfig], datasets: Datasets, *, num_trials: int, max_concurrent: int
) -> DiskEstimate:
    """Estimates the disk space of the trials that `configs` represent. Shared caches count once."""
    images: dict[tuple[str, int], int] = {}
    activations: dict[tuple[object, ...], float] = {}
    checkpoint = adapter = 0
    for config in configs:
        dataset, found = datasets[config.data.model_dump_json()], footprint(config)
        size = model_preprocessing(config).size
        images[dataset.content_fingerprint, size] = len(dataset.records) * size**2
        key, num_bytes = _cache_of(config, dataset, found)
        activations[key] = num_bytes
        if found is not None:
            checkpoint = max(checkpoint, found.checkpoint)
            adapter = max(adapter, COPIES_OF_ADAPTER * found.num_trainable * 4)
    most = max(len(dataset.records) for dataset in datasets.values())
    each = most * EMBEDDING_BYTES + adapter
    written = KEPT_CHECKPOINTS * checkpoint * max_concurrent
    return DiskEstimate(
        activations=int(sum(activations.values())),
        results=int(sum(images.values()) + num_trials * each + written),
        free=shutil.disk_usage(_home()).free,
    )


def _cache_of(
    config: TrialConfig, dataset: Dataset, found: Footprint | None
) -> tuple[tuple[object, ...], float]:
    """Returns the key and the bytes of a trial's activation cache. Trials with equal keys share a cache."""
    budget = config.execution.cache_budget_gb * 2**30
    if config.is_baseline:
        return (), 0
    if found is None:
        return (config.encoder,), budget
    num_views = 1 if config.data.augmentation == "none" else config.data.num_views
    num_trained = len(dataset.records if config.data.fold is not None else dataset.indices("train"))
    num_images = len(dataset.records) + max(num_views - 1, 0) * num_trained
    key = (config.encoder, found.activations, dataset.content_fingerprint, num_images, config.data.seed)
    return key, num_images * found.activations if num_images * found.activations <= budget else 0


def _home() -> Path:
    """Returns the home folder or, if it does not exist, its nearest existing parent."""
    folder = Path(os.environ.get(HOME_VARIABLE) or Path.home()).expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _gigabytes(num_bytes: int) -> str:
    """Returns text such as `270 GB`, `2.4 GB` or `0.14 GB`."""
    value = num_bytes / 2**30
    return f"{value:,.0f} GB" if value >= 10 else f"{value:.2g} GB"
