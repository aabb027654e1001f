"""The part of a model that reads pixels: a dual encoder with its adapter, or a fine-tuned classifier."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from trainables.config import PreprocessingSpec, Task
from trainables.deploy.facts import ModelFacts
from trainables.errors import DataError
from trainables.models.adapters.adapter_files import load_adapter
from trainables.models.adapters.lora import attach
from trainables.models.catalogue.classifiers import (
    classifier_fingerprint,
    classifier_preprocessing,
    load_classifier,
)
from trainables.models.encoders.dual_encoder import DualEncoder, in_evaluation_mode
from trainables.models.encoders.load import load_dual_encoder
from trainables.models.files.weights import DEFAULT_HOME, HOME_VARIABLE
from trainables.training.classifier_task import CLASSIFIER_TASKS

ADAPTER, CLASSIFIER = "adapter", "classifier.safetensors"


class Engine(Protocol):
    """Computes features of images."""

    preprocessing: PreprocessingSpec

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns name → features of images uint8 [B, S, S], at the size in `preprocessing`."""
        ...


class EncoderEngine:
    """Computes `pooled` [B, P] and `joint` [B, D] features with a dual encoder."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder, self.preprocessing = encoder, encoder.preprocessing

    @torch.no_grad()
    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the features of images, float32."""
        with in_evaluation_mode(self.encoder):
            found = self.encoder.encode_image(torch.from_numpy(images))
        return {name: values.float().cpu().numpy() for name, values in found._asdict().items()}


class ClassifierEngine:
    """Computes the `scores` [B, K] of a fine-tuned classifier."""

    def __init__(self, model: nn.Module, preprocessing: PreprocessingSpec, task: Task) -> None:
        self.model, self.preprocessing = model.eval(), preprocessing
        self.probabilities = CLASSIFIER_TASKS[task].probabilities
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the probabilities of each class or finding, float64."""
        pixels = torch.from_numpy(images).to(self.device)[:, None].float() / 255
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        logits = self.model(((pixels - mean) / std).to(next(self.model.parameters()).dtype))
        return {"scores": self.probabilities(logits.double()).cpu().numpy()}


def load_engine(folder: Path, facts: ModelFacts, *, device: str, store: Path | None) -> Engine:
    """Loads the weights of a model: the public ones by name, and the trained ones from its folder.

    Raises:
        DataError: the weights or the preprocessing here differ from those that the model was trained with.
        WeightsUnavailable: the public weights are not on this machine. The message says how to get them.
    """
    config: Any = facts.config
    if config.is_baseline:
        _check(
            folder, facts, classifier_fingerprint(config.baseline), classifier_preprocessing(config.baseline)
        )
        # The weights of ImageNet are not needed: the folder has all weights.
        untrained = config.baseline.model_copy(update={"from_scratch": True})
        model = load_classifier(untrained, num_classes=len(facts.classes), seed=0).to(device)
        model.load_state_dict(load_file(folder / CLASSIFIER))
        return ClassifierEngine(model, facts.preprocessing, facts.task)
    encoder = load_dual_encoder(config.encoder, device=device, store=store or default_store())
    _check(folder, facts, encoder.fingerprint, encoder.preprocessing)
    attach(encoder, config)
    if (folder / ADAPTER).is_dir():
        load_adapter(encoder, folder / ADAPTER)
    return EncoderEngine(encoder.eval())


def default_store() -> Path:
    """Returns the store in the user's home folder, where a family keeps what it computes from its weights."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser() / "store"


def _check(folder: Path, facts: ModelFacts, fingerprint: str, preprocessing: PreprocessingSpec) -> None:
    if preprocessing != facts.preprocessing:
        raise DataError(
            f"{folder}: the model was trained with other preprocessing than this program gives "
            f"{facts.weights['name']}; load it with the version of this program that wrote it"
        )
    if fingerprint != facts.fingerprint:
        raise DataError(
            f"{folder}: the model was trained on other weights of {facts.weights['name']} "
            f"({facts.fingerprint}) than those on this machine ({fingerprint}); get the weights of revision "
            f"{facts.weights.get('revision') or 'at training'}"
        )
