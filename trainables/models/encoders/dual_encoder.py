"""What every dual encoder can do. Families subclass it once; trainables know nothing else of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import PreprocessingSpec
from trainables.models.encoder_spec import TowerName
from trainables.models.encoders.dropout import CounterDropout


class ImageFeatures(NamedTuple):
    """`pooled` [B, P]: penultimate, before the projection. `joint` [B, D]: projected, unit length."""

    pooled: Tensor
    joint: Tensor


class Tokens(NamedTuple):
    """`input_ids` and `attention_mask`, both int64 [B, L]."""

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True)
class Blocks:
    """A tower's top-level blocks from input to output, as module names inside the encoder."""

    names: tuple[str, ...]


class DualEncoder(nn.Module, ABC):
    """An image encoder and a text encoder with one joint space.

    The image tower is cut in two at `image_cut`: blocks below it are frozen, so their activations are
    computed once per image and view (`encode_image_prefix`) and reused by every epoch and trial
    (`encode_image_suffix`).
    """

    family: str
    name: str  # as in `encoder.name`
    fingerprint: str  # of weights, architecture and preprocessing; equal only for equal outputs
    preprocessing: PreprocessingSpec
    pooled_dim: int
    joint_dim: int
    log_logit_scale: nn.Parameter  # []
    dtype: torch.dtype = torch.float32  # of frozen weights and activations; embeddings are float32 at least

    @abstractmethod
    def blocks(self, tower: TowerName) -> Blocks:
        """Returns the top-level blocks of a tower, lowest first."""

    @abstractmethod
    def projections(self) -> dict[TowerName, str]:
        """Returns the names of the linear maps into the joint space, which method `projection` trains."""

    @abstractmethod
    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns how the names of a tower's parameters begin, its projection's included."""

    @abstractmethod
    def encode_image_prefix(self, pixels: Tensor, cut: int) -> Tensor:
        """Runs the image blocks below `cut` on normalised pixels [B, C, H, W] → activations [B, …].

        `cut` counts blocks: 0 = nothing is run; `len(blocks)` = all, which returns `pooled` [B, P].
        """

    @abstractmethod
    def encode_image_suffix(self, activations: Tensor, cut: int) -> ImageFeatures:
        """Runs the rest of the image tower, from `cut` to the joint space."""

    @abstractmethod
    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns joint embeddings [B, D], unit length; padding never changes them."""

    @abstractmethod
    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the longest text, cut to the encoder's context length."""

    @property
    def adapter_root(self) -> nn.Module:
        """The module from which a saved adapter's files name theirs, so that PEFT loads them onto it."""
        return self

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encodes uint8 images [B, H, W] of the size that `preprocessing` names."""
        return self.encode_image_suffix(self.pixels(images), 0)

    def pixels(self, images: Tensor) -> Tensor:
        """Returns normalised float pixels [B, C, H, W] of uint8 images [B, H, W] (grey) or [B, H, W, 3].

        Raises:
            TypeError: floats. A pipeline that normalises twice feeds nearly black images.
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
        """Switches adapter dropout only.

        Normalisation with batch statistics and the encoder's own dropout stay as in inference: a forward pass
        that is repeated for its gradient must be the same forward pass, whatever the micro-batch.
        """
        super().train(False)
        self.training = mode
        for module in self.modules():
            if isinstance(module, CounterDropout):
                module.train(mode)
        return self


def unit_length(embeddings: Tensor) -> Tensor:
    """Returns embeddings [B, D] normalised, in float32 at least: the loss is computed no lower."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


@contextmanager
def in_evaluation_mode(encoder: DualEncoder) -> Iterator[None]:
    """Switches dropout off meanwhile, then back: a training step may embed captions in its middle."""
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)
