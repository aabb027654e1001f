"""Times one optimiser step of a trial, as `finetune` takes it, and leaves nothing behind but caches."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.config import PreprocessingSpec, TrialConfig
from trainables.context import LocalContext
from trainables.data.cache import ImageCache
from trainables.data.datasets import load_dataset
from trainables.data.loader import GlobalBatch, global_batches
from trainables.data.records import Dataset
from trainables.data.transforms import fit
from trainables.models.adapters.lora import attach
from trainables.models.encoders.load import load_dual_encoder
from trainables.training.descriptions import DESCRIBED
from trainables.training.frozen_activations import Activations
from trainables.training.objective import Objective
from trainables.training.optim import TrainState
from trainables.training.trial_setup import TrialSetup

FEW_PAIRS = 8
LONGEST_SECONDS = 30.0
"""A step that would take longer is timed on as many of its pairs as fit, and scaled."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of the whole batch, of which `num_timed` of `num_pairs` pairs were really taken.

    Attributes:
        embed_seconds: of one image, when nothing is trained.
    """

    seconds: float
    num_pairs: int
    num_timed: int
    embed_seconds: float

    @property
    def seconds_per_pair(self) -> float:
        """Steps of another size take about as long for each pair."""
        return self.seconds / self.num_pairs


def time_step(config: TrialConfig, *, device: str, num_threads: int, store: Path) -> StepTime:
    """Takes a warm-up step and a timed one of a trial on the real device, with its real weights and images.

    Only the images of one batch are decoded. Frozen activations are ready before the clock starts where a
    trial would find them in its cache.
    """
    if config.data.captions in DESCRIBED:  # describing every image first would take minutes
        config = config.model_copy(update={"data": config.data.model_copy(update={"captions": "finding"})})
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        setup = _open(config, device, store)
        context = LocalContext(workdir=store, store=store, device=device)
        objective = Objective(setup, config, context)
        state = TrainState.create(
            objective.parameters,
            config,
            total_steps=config.num_epochs,
            log_logit_scale=setup.encoder.log_logit_scale,
        )
        batch = next(global_batches(setup.dataset, config))
        return _time(batch, objective, state)
    finally:
        torch.set_num_threads(threads)


def _time(batch: GlobalBatch, objective: Objective, state: TrainState) -> StepTime:
    few = _first(batch, FEW_PAIRS)
    affordable = int(LONGEST_SECONDS / _second_step(few, objective, state) * len(few))
    timed = _first(batch, max(affordable, FEW_PAIRS))
    seconds = _second_step(timed, objective, state)
    return StepTime(
        seconds * len(batch) / len(timed),
        num_pairs=len(batch),
        num_timed=len(timed),
        embed_seconds=_second_embedding(timed.indices, objective.setup) / len(timed),
    )


def _second_embedding(indices: np.ndarray, setup: TrialSetup) -> float:
    """Embeds images twice and returns the seconds of the second time."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        setup.embed_images(indices)  # ends on the CPU, so a GPU has been waited for
        seconds = time.perf_counter() - began
    return seconds


def _second_step(batch: GlobalBatch, objective: Objective, state: TrainState) -> float:
    """Takes a batch twice and returns the seconds of the second time."""
    seconds, cut = 0.0, objective.choose_cut(batch)
    for _ in range(2):
        began = time.perf_counter()
        objective.setup.encoder.train()
        objective.step(batch, micro_batch_size=cut.micro_batch_size, kept_graphs=cut.kept_graphs)
        state.apply_gradients()
        if objective.setup.encoder.log_logit_scale.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds


def _first(batch: GlobalBatch, num_pairs: int) -> GlobalBatch:
    return replace(
        batch,
        indices=batch.indices[:num_pairs],
        views=batch.views[:num_pairs],
        captions=batch.captions[:num_pairs],
        classes=batch.classes[:num_pairs],
    )


def _open(config: TrialConfig, device: str, store: Path) -> TrialSetup:
    dataset = load_dataset(config.data)
    encoder = load_dual_encoder(config.encoder, device=device, store=store)
    adaptation = attach(encoder, config)
    images = DecodedImages(dataset, encoder.preprocessing)
    cut, train = adaptation.image_cut, dataset.indices("train")
    activations = RememberedActivations(encoder, cut, images, config, train=train, store=store)
    return TrialSetup(dataset, images, encoder, adaptation, activations, None, embeddings_folder=store)


class DecodedImages(ImageCache):
    """Decodes each image once, when it is first read, and writes nothing."""

    def __init__(self, dataset: Dataset, preprocessing: PreprocessingSpec) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing
        self.known: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.dataset.records)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns uint8 [B, H, W] in the order of `indices`, a copy."""
        for index in map(int, indices):
            if index not in self.known:
                decoded = self.dataset.decode(self.dataset.records[index])
                self.known[index] = fit(decoded, self.preprocessing)
        return np.stack([self.known[int(index)] for index in indices])


class RememberedActivations(Activations):
    """Keeps activations in memory; a trial keeps them on disk."""

    known: dict[tuple[int, int], Tensor]

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Returns activations [B, …]; those of an earlier call are not computed again."""
        if not self.is_cached or not all(self._is_kept(int(view)) for view in views):
            return super().batch(indices, views)
        self.known = getattr(self, "known", {})
        places = [(int(index), int(view)) for index, view in zip(indices, views, strict=True)]
        new = [row for row, place in enumerate(places) if place not in self.known]
        if new:
            computed = self._compute(indices[new], views[new]).cpu()
            self.known |= {places[row]: value for row, value in zip(new, computed, strict=True)}
        stacked = torch.stack([self.known[place] for place in places])
        return stacked.to(self.encoder.log_logit_scale.device)
