"""The interface of every dual encoder; trainables use only this interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import PreprocessingSpec
from trainables.models.encoder_spec import TowerName
from trainables.models.encoders.dropout import CounterDropout
from trainables.models.encoders.open_clip_towers import VisionTransformerTower
from trainables.models.encoders.timm_towers import ImageTower


class ImageFeatures(NamedTuple):
    """Image features: `pooled` [B, P] before the projection; `joint` [B, D] after it, unit length."""

    pooled: Tensor
    joint: Tensor


class Tokens(NamedTuple):
    """Tokens of texts: `input_ids` and `attention_mask`, both int64 [B, L]."""

    input_ids: Tensor
    attention_mask: Tensor


class DualEncoder(nn.Module, ABC):
    """An image encoder and a text encoder with one joint space.

    The image tower is divided at `image_cut`. The blocks below are frozen, so their activations are computed
    once per image and view (`encode_image_prefix`). All epochs and trials reuse them (`encode_image_suffix`).
    """

    family: str
    name: str  # equal to `encoder.name`
    fingerprint: str  # of weights, architecture and preprocessing
    preprocessing: PreprocessingSpec
    pooled_dim: int
    joint_dim: int
    log_logit_scale: nn.Parameter  # []
    dtype: torch.dtype = torch.float32  # of frozen weights and activations; embeddings are at least float32

    @abstractmethod
    def blocks(self, tower: TowerName) -> tuple[str, ...]:
        """Returns the names of a tower's top-level blocks, from input to output."""

    @abstractmethod
    def projections(self) -> dict[TowerName, str]:
        """Returns the names of the projections into the joint space, which method `projection` trains."""

    @abstractmethod
    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns the prefixes of the parameter names of each tower, including its projection."""

    @abstractmethod
    def run_image_blocks(self, activations: Tensor, first: int, last: int) -> Tensor:
        """Runs the image blocks `first` to `last` - 1; the final block returns features [B, P] or a map."""

    @abstractmethod
    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Returns pooled and joint features for the output of the last image block."""

    @abstractmethod
    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns joint embeddings [B, D], unit length; padding never changes them."""

    @abstractmethod
    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the longest text, and truncated to the context length of the encoder."""

    def encode_image_prefix(self, pixels: Tensor, cut: int) -> Tensor:
        """Runs the first `cut` image blocks on normalised pixels [B, C, H, W] → activations [B, …]."""
        return self.run_image_blocks(pixels, 0, cut)

    def encode_image_suffix(self, activations: Tensor, cut: int) -> ImageFeatures:
        """Runs the other image blocks, then the projection into the joint space."""
        return self.project_image(self.run_image_blocks(activations, cut, len(self.blocks("image"))))

    @property
    def adapter_root(self) -> nn.Module:
        """Returns the module to which the names in a saved adapter are relative, so that PEFT can load it."""
        return self

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Returns the features of images, uint8 [B, H, W], of the size in `preprocessing`."""
        return self.encode_image_suffix(self.pixels(images), 0)

    def pixels(self, images: Tensor) -> Tensor:
        """Returns normalised float pixels [B, C, H, W] of uint8 images [B, H, W] (grey) or [B, H, W, 3].

        Raises:
            TypeError: the images are floats. Normalising twice would give nearly black images.
        """
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}; an encoder takes uint8 and normalises them itself, once"
            )
        spec = self.preprocessing
        grey = images.dim() == 3
        values = images.unsqueeze(1) if grey else images.permute(0, 3, 1, 2)
        values = values.to(self.log_logit_scale.device, torch.float32) / 255
        mean, std = (torch.tensor(v, device=values.device).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        normalised = (values - mean) / std  # a grey channel broadcasts against per-channel constants
        return normalised.expand(-1, spec.channels, -1, -1).to(self.dtype)

    def train(self, mode: bool = True) -> DualEncoder:
        """Switches only adapter dropout to training or evaluation mode.

        BatchNorm and the dropout of the encoder stay in evaluation mode, because a forward pass that is
        repeated for the gradient must give the same result for every micro-batch size.
        """
        super().train(False)
        self.training = mode
        for module in self.modules():
            if isinstance(module, CounterDropout):
                module.train(mode)
        return self


class TwoTowerEncoder(DualEncoder):
    """A dual encoder with two separate modules: `image`, which is divided into blocks, and `text`."""

    image: ImageTower | VisionTransformerTower
    text: Any

    def text_blocks(self) -> tuple[str, ...]:
        """Returns the names of the text tower's layers, which are its first list of modules."""
        name, layers = next(
            (name, module) for name, module in self.text.named_modules() if isinstance(module, nn.ModuleList)
        )
        return tuple(f"text.{name}.{i}" for i in range(len(layers)))

    def blocks(self, tower: TowerName) -> tuple[str, ...]:
        """Returns the image tower's blocks, or the text tower's layers."""
        if tower == "image":
            return tuple(f"image.{name}" for name in self.image.block_names)
        return self.text_blocks()

    def run_image_blocks(self, activations: Tensor, first: int, last: int) -> Tensor:
        """Returns the output of blocks of the image tower."""
        return self.image.run(activations, first, last)

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens of the text tower."""
        return self.text.tokenize(texts)


def unit_length(embeddings: Tensor) -> Tensor:
    """Returns normalised embeddings [B, D], at least in float32 for the loss."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


@contextmanager
def in_evaluation_mode(encoder: DualEncoder) -> Iterator[None]:
    """Switches dropout off in the `with` block: a training step may embed captions."""
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)
