"""The image classifiers that dual encoders are compared with: ResNet-18 and ViT-B/16 of torchvision.

A plan needs their identity, preprocessing, learning rates and size, which are known without torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.artifacts import file_sha256, fingerprint
from trainables.config import BaselineConfig, PreprocessingSpec
from trainables.errors import DataError, WeightsUnavailable
from trainables.models.torchvision_import import declare_missing_operators

if TYPE_CHECKING:
    from torch import nn

# Imports inside functions: torch takes seconds to load, and checks do not need it.

PUBLISHED = "https://download.pytorch.org/models"
PATCH = 16
"""Side of a ViT-B/16 patch in pixels."""
TRAINED_SIZE = 224
"""Side of the images that both were trained on, in pixels."""


@dataclass(frozen=True)
class Architecture:
    """The facts about a classifier.

    Attributes:
        file: file name of the ImageNet weights, which ends with the beginning of their SHA-256.
        head: name of the classification layer in the model.
        learning_rate: default learning rates, for ImageNet weights and for random weights.
        num_parameters: number of parameters without the head, for images of 224 pixels.
        graph_bytes: bytes that the backward pass needs for such an image.
        is_cut: whether a batch may be divided into micro-batches; batch norm needs the whole batch.
    """

    file: str
    head: str
    learning_rate: float
    scratch_learning_rate: float
    num_parameters: int
    graph_bytes: int
    is_cut: bool


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(
        file="resnet18-f37072fd.pth",
        head="fc",
        learning_rate=3e-4,
        scratch_learning_rate=1e-3,
        num_parameters=11_176_512,
        graph_bytes=22_200_000,
        is_cut=False,
    ),
    "vit_b_16": Architecture(
        file="vit_b_16-c867db91.pth",
        head="heads.head",
        learning_rate=3e-5,
        scratch_learning_rate=1e-4,
        num_parameters=85_798_656,
        graph_bytes=155_000_000,
        is_cut=True,
    ),
}


def classifier_fingerprint(config: BaselineConfig) -> str:
    """Returns the fingerprint of an untrained classifier: its weights and its preprocessing."""
    weights = "random" if config.from_scratch else ARCHITECTURES[config.architecture].file
    return fingerprint("classifier", config.architecture, weights, classifier_preprocessing(config))


def classifier_preprocessing(config: BaselineConfig) -> PreprocessingSpec:
    """Returns the preprocessing of a classifier: that of ImageNet, without a centre crop."""
    return PreprocessingSpec(
        size=config.image_size,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def classifier_learning_rate(config: BaselineConfig) -> float:
    """Returns the default learning rate of a classifier."""
    architecture = ARCHITECTURES[config.architecture]
    return architecture.scratch_learning_rate if config.from_scratch else architecture.learning_rate


def graph_bytes(config: BaselineConfig) -> int:
    """Returns the bytes that the backward pass needs for one image; they grow with its pixels or patches."""
    architecture = ARCHITECTURES[config.architecture]
    share = (config.image_size / TRAINED_SIZE) ** 2
    if config.architecture == "vit_b_16":
        share = (1 + (config.image_size // PATCH) ** 2) / (1 + (TRAINED_SIZE // PATCH) ** 2)
    return round(architecture.graph_bytes * share)


def load_classifier(config: BaselineConfig, *, num_classes: int, seed: int) -> nn.Module:
    """Returns a classifier that maps pixels [B, 3, S, S], float32, to logits [B, K].

    The head is random; with `from_scratch`, all weights are. Random weights depend only on `seed`.
    """
    declare_missing_operators()
    import torch
    from torch import nn
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size: dict[str, Any] = {"image_size": config.image_size} if config.architecture == "vit_b_16" else {}
        model = getattr(models, config.architecture)(**size)
        if not config.from_scratch:
            model.load_state_dict(
                resized_weights(torch.load(weights_file(config), weights_only=True), config)
            )
        name = ARCHITECTURES[config.architecture].head
        width = model.get_submodule(name).in_features
        model.set_submodule(name, nn.Linear(width, num_classes))
    return model


def weights_file(config: BaselineConfig) -> Path:
    """Returns the file of ImageNet weights in torch's cache, after a check of its hash."""
    if missing := missing_classifier(config):
        raise WeightsUnavailable(missing)
    path = _place(config)
    expected = path.stem.rpartition("-")[2]
    if not (found := file_sha256(path)).startswith(expected):
        raise DataError(
            f"{path}: its SHA-256 begins with {found[: len(expected)]}, not with {expected}, so it is "
            "damaged or another file; delete it and download it again"
        )
    return path


def missing_classifier(config: BaselineConfig) -> str | None:
    """Returns how to get the ImageNet weights of a classifier, or None if nothing is missing."""
    path = _place(config)
    if config.from_scratch or path.is_file():
        return None
    return (
        f"baseline.architecture={config.architecture}: ImageNet's weights are not at {path}; with "
        f"a network, run 'curl --create-dirs -o {path} {PUBLISHED}/{path.name}', or train from "
        "random weights with baseline.from_scratch=true"
    )


def _place(config: BaselineConfig) -> Path:
    """Returns the path of a weights file in torch.hub's cache, without loading torch."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    home = Path(os.environ.get("TORCH_HOME", cache)).expanduser()
    return home / "hub" / "checkpoints" / ARCHITECTURES[config.architecture].file


def resized_weights(tensors: Any, config: BaselineConfig) -> Any:
    """Returns the weights, with position embeddings interpolated to the configured image size."""
    if config.architecture != "vit_b_16" or config.image_size == TRAINED_SIZE:
        return tensors
    from torchvision.models.vision_transformer import interpolate_embeddings

    return interpolate_embeddings(config.image_size, PATCH, tensors)
