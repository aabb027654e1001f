"""Sets up a trial: data set, pixels, encoder with adapters, and frozen activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, science
from trainables.context import RunContext
from trainables.data.adapt_on import check_trained_on
from trainables.data.cache import ImageCache, decode_unless_busy, open_image_cache
from trainables.data.datasets import load_dataset, training_set
from trainables.data.records import Dataset
from trainables.data.reports.read import REPORTS_VERSION
from trainables.data.text import every_sentence, training_prompts
from trainables.errors import ConfigError
from trainables.models.adapters.adaptation import Adaptation
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.registry import default_learning_rate, preprocessing_of
from trainables.models.encoders.dual_encoder import DualEncoder, ImageFeatures, in_evaluation_mode
from trainables.models.encoders.load import load_dual_encoder
from trainables.scoring.embedding_store import EmbeddingTable, embeddings_folder
from trainables.training.descriptions import with_descriptions
from trainables.training.frozen_activations import Activations
from trainables.training.micro_batch import in_pieces

ROWS_AT_ONCE = 256
TRAINING_VERSION = 3
"""Raise this number when the same configuration would train another adapter."""


class TrainingImages(NamedTuple):
    """The data set whose train images train the adapter: the scored one, or that of `data.adapt_on`."""

    dataset: Dataset
    activations: Activations


@dataclass
class TrialSetup:
    """The data and the model of a trial, loaded once and used by all steps."""

    dataset: Dataset
    images: ImageCache
    encoder: DualEncoder
    adaptation: Adaptation
    activations: Activations
    adapter_folder: Path | None  # folder of the trained adapter, perhaps not yet there; None without training
    embeddings_folder: Path
    training: TrainingImages

    @torch.no_grad()
    def embed_images(self, indices: np.ndarray) -> ImageFeatures:
        """Returns pooled [N, P] and joint [N, D] features of unaugmented images, float32 on the CPU."""

        def encode(rows: np.ndarray) -> ImageFeatures:
            return self.encoder.encode_image_suffix(self.activations.clean(rows), self.adaptation.image_cut)

        with in_evaluation_mode(self.encoder):
            parts = in_pieces(encode, indices, ROWS_AT_ONCE)
        pooled, joint = (torch.cat(values).float().cpu() for values in zip(*parts, strict=True))
        return ImageFeatures(pooled, joint)

    def embedding_table(self, indices: np.ndarray) -> EmbeddingTable:
        """Returns the embeddings of these records with their image ids, always computed anew."""
        pooled, joint = self.embed_images(indices)
        image_ids = np.array([self.dataset.records[i].image_id for i in indices])
        return EmbeddingTable(image_ids, pooled.numpy(), joint.numpy())

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Returns joint embeddings [N, D] of texts, unit length, on the encoder's device."""
        with in_evaluation_mode(self.encoder):
            encoder = self.encoder
            parts = in_pieces(lambda some: encoder.encode_text(encoder.tokenize(some)), texts, ROWS_AT_ONCE)
        return torch.cat(parts).float()


def set_up_trial(config: TrialConfig, context: RunContext) -> TrialSetup:
    """Loads data and encoder, and attaches untrained adapters, with equal weights on every rank."""
    if config.is_baseline:
        raise ConfigError(
            "adapt.method=baseline: there is no dual encoder to load; run `adapt` or `baseline`"
        )
    if config.execution.num_threads:
        torch.set_num_threads(config.execution.num_threads)
    dataset = load_dataset(config.data_to_read)
    trained = training_set(config.data_to_read) if config.adapts_elsewhere else dataset
    check_trained_on(trained, config)
    if config.reads_captions:
        trained = with_descriptions(trained, config, context)
    # Trials that start together share two long steps: one decodes while another embeds the class names.
    decode_unless_busy(dataset, preprocessing_of(config.encoder), context.store)
    torch.manual_seed(config.seed)  # draws LoRA's A matrices
    encoder = load_dual_encoder(config.encoder, device=context.device, store=context.store)
    adaptation = attach(encoder, config)
    images = open_image_cache(dataset, encoder.preprocessing, context.store)
    ever_trained = dataset.indices("train") if config.data.fold is None else np.arange(len(dataset.records))
    activations = Activations(
        encoder, adaptation.image_cut, images, config, train=ever_trained, store=context.store
    )
    training = TrainingImages(trained, activations)
    if config.adapts_elsewhere:
        other = open_image_cache(trained, encoder.preprocessing, context.store)
        train = trained.indices("train")
        training = TrainingImages(
            trained,
            Activations(encoder, adaptation.image_cut, other, config, train=train, store=context.store),
        )
    scored = dataset.fingerprint if config.adapts_elsewhere else None
    adapter = adapter_key(config, trained, encoder, scored=scored)
    return TrialSetup(
        dataset=dataset,
        images=images,
        encoder=encoder,
        adaptation=adaptation,
        activations=activations,
        adapter_folder=context.store / "adapters" / adapter if adapter else None,
        embeddings_folder=embeddings_folder(context.store, images.fingerprint, encoder.fingerprint, adapter),
        training=training,
    )


def adapter_key(
    config: TrialConfig, dataset: Dataset, encoder: DualEncoder, *, scored: str | None = None
) -> str | None:
    """Returns the key of a trained adapter: a fingerprint of all training inputs. None if nothing trains.

    Args:
        config: the trial.
        dataset: the data set whose train images train.
        encoder: the encoder before training.
        scored: fingerprint of the scored data set if it is another one, because the epochs are scored on it.
    """
    if config.adapt.method == "none":
        return None
    settings = science(config)
    del settings["probe"], settings["zero_shot"]
    defaults = (
        default_learning_rate(config),
        training_prompts(dataset),
    )
    words: list[str] = [] if scored is None else [scored]
    if config.reads_reports:  # their texts are part of the data set's fingerprint
        words.append(f"reports {REPORTS_VERSION}")
    elif config.reads_captions and config.data.captions != "finding":  # findings are the training prompts
        whose = sorted(dataset.descriptions.items())  # the same words on other images give another adapter
        words.append(fingerprint(every_sentence(dataset, kind=config.data.captions), whose))
    return fingerprint(
        "adapter", TRAINING_VERSION, settings, defaults, dataset.fingerprint, encoder.fingerprint, *words
    )
