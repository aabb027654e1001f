"""Times one optimiser step of a trial, as in `finetune`. Only caches are written."""

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
from trainables.data.datasets import training_set
from trainables.data.loader import GlobalBatch, global_batches
from trainables.data.records import Dataset
from trainables.data.transforms import fit
from trainables.models.adapters.lora import attach
from trainables.models.encoders.load import load_dual_encoder
from trainables.training.descriptions import DESCRIBED
from trainables.training.frozen_activations import Activations
from trainables.training.objective import Objective
from trainables.training.optim import TrainState
from trainables.training.trial_setup import TrainingImages, TrialSetup

FEW_PAIRS = 8
LONGEST_SECONDS = 30.0
"""A longer step is timed on fewer pairs, and the time is scaled."""


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step of `num_pairs` pairs, estimated from a step of `num_timed` pairs.

    Attributes:
        embed_seconds: seconds to embed one image without training.
    """

    seconds: float
    num_pairs: int
    num_timed: int
    embed_seconds: float

    @property
    def seconds_per_pair(self) -> float:
        """Returns the seconds per pair, which are about the same for other step sizes."""
        return self.seconds / self.num_pairs


def time_step(config: TrialConfig, *, device: str, num_threads: int, store: Path) -> StepTime:
    """Returns the time of a step on the real device, with real weights and images, after a warm-up step.

    Only the images of one batch are decoded. Frozen activations that a trial would read from its cache are
    computed before the timing starts.
    """
    if config.data.captions in DESCRIBED:  # describing all images first would take minutes
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
        batch = next(global_batches(setup.training.dataset, config))
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
    """Embeds images twice, and returns the seconds of the second run."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        setup.embed_images(indices)  # the result is on the CPU, so a GPU has finished
        seconds = time.perf_counter() - began
    return seconds


def _second_step(batch: GlobalBatch, objective: Objective, state: TrainState) -> float:
    """Takes the step of a batch twice, and returns the seconds of the second step."""
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
        labels=None if batch.labels is None else batch.labels[:num_pairs],
    )


def _open(config: TrialConfig, device: str, store: Path) -> TrialSetup:
    dataset = training_set(config.data_to_read)
    encoder = load_dual_encoder(config.encoder, device=device, store=store)
    adaptation = attach(encoder, config)
    images = DecodedImages(dataset, encoder.preprocessing)
    cut, train = adaptation.image_cut, dataset.indices("train")
    activations = RememberedActivations(encoder, cut, images, config, train=train, store=store)
    training = TrainingImages(dataset, activations)
    return TrialSetup(dataset, images, encoder, adaptation, activations, None, store, training)


class DecodedImages(ImageCache):
    """Images that are decoded when first read, and kept in memory only."""

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
    """Activations kept in memory; a trial keeps them on disk."""

    known: dict[tuple[int, int], Tensor]

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Returns activations [B, …]; computes only those that no earlier call computed."""
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
