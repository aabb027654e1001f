"""The losses in float64 against dense autograd on the same device, and random numbers against the CPU's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from random_encoders import build_encoder
from torch import Tensor

from gpu_lines.row import Row, Settings
from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step
from trainables.models.encoders.dropout import keep_mask

LOSSES = [
    LossConfig(kind="clip"),
    LossConfig(kind="multi_positive", pair_weight=0.3),
    LossConfig(kind="multi_positive", positives="caption"),
    LossConfig(kind="soft_target", temperature=0.5),
    LossConfig(kind="siglip", pair_weight=0.3),
    LossConfig(kind="class_prompt"),
]
PAIRS, CAPTIONS, CLASSES, DIMENSION = 37, 11, 3, 16
EXACT = 1e-10
"""Rounding of float64 in sums of a few hundred terms is below 1e-12."""


def losses(settings: Settings, row: Row) -> None:
    """Compares every loss with dense autograd, then masks and adapters with those that the CPU draws."""
    pairs = FreePairs.on(settings.device)
    values, gradients = 0.0, 0.0
    for config in LOSSES:
        expected, expected_gradient = pairs.dense(config)
        for micro_batch_size in (7, None):
            loss, gradient = pairs.step(config, micro_batch_size)
            values = max(values, abs(loss - expected))
            gradients = max(gradients, float((gradient - expected_gradient).abs().max()))
    row.require("loss_difference", values, at_most=EXACT)
    row.require("gradient_difference", gradients, at_most=EXACT)
    row.require("masks_equal", masks_are_equal(settings.device), equals=True)
    row.require("adapters_equal", adapters_are_equal(settings.device), equals=True)


@dataclass
class FreePairs:
    """A global batch whose embeddings are free: a `PairEncoder` without towers."""

    images: Tensor
    texts: Tensor
    log_logit_scale: Tensor
    logit_bias: Tensor
    text_of_pair: Tensor
    classes: Tensor
    trains_images: bool = True
    trains_texts: bool = True

    @classmethod
    def on(cls, device: torch.device) -> FreePairs:
        """Draws the same numbers for every device."""
        random = torch.Generator().manual_seed(0)

        def learned(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=random, dtype=torch.float64)
            return drawn.to(device).requires_grad_()

        return cls(
            learned(PAIRS, DIMENSION), learned(CAPTIONS, DIMENSION), learned(), learned(),
            text_of_pair=torch.arange(PAIRS) % CAPTIONS,
            classes=torch.randint(CLASSES, (PAIRS,), generator=random),
        )  # fmt: skip

    def encode_images(self, rows: range) -> Tensor:
        """Returns unit-length rows."""
        return F.normalize(self.images[rows.start : rows.stop], dim=1)

    def encode_texts(self, rows: range) -> Tensor:
        """Returns unit-length rows."""
        return F.normalize(self.texts[rows.start : rows.stop], dim=1)

    def groups(self, config: LossConfig) -> Tensor:
        """Returns what makes two pairs positives."""
        return self.classes if config.positives == "class" else self.text_of_pair

    def step(self, config: LossConfig, micro_batch_size: int | None) -> tuple[float, Tensor]:
        """Returns loss and gradient as the product computes them."""
        result = global_batch_step(
            self,
            BatchPlan(self.text_of_pair, self.groups(config)),
            config,
            log_logit_scale=self.log_logit_scale,
            logit_bias=self.logit_bias,
            parameters=[self.images, self.texts],
            micro_batch_size=micro_batch_size,
            tile_size=5,
        )
        return result.loss, self.gradient()

    def dense(self, config: LossConfig) -> tuple[float, Tensor]:
        """Returns loss and gradient of one matrix of logits, by autograd."""
        device = self.images.device
        loss = dense_loss(
            self.encode_images(range(PAIRS)),
            self.encode_texts(range(CAPTIONS)),
            self.text_of_pair.to(device),
            self.groups(config).to(device),
            self.log_logit_scale.exp(),
            self.logit_bias,
            config,
        )
        loss.backward()
        return float(loss.detach()), self.gradient()

    def gradient(self) -> Tensor:
        """Returns all gradients in one vector and clears them; 0 where there is none."""
        learned = (self.images, self.texts, self.log_logit_scale, self.logit_bias)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
        for parameter in learned:
            parameter.grad = None
        return torch.cat([part.detach().flatten() for part in parts])


def dense_loss(
    images: Tensor,
    texts: Tensor,
    text_of_pair: Tensor,
    groups: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    config: LossConfig,
) -> Tensor:
    """Returns the loss from its definition: a row of text for each pair, B × B targets, nothing in tiles."""
    if config.kind == "class_prompt":  # each caption stands for a class
        return F.cross_entropy(logit_scale * images @ texts.T, text_of_pair)
    logits = logit_scale * images @ texts[text_of_pair].T
    weight = 1.0 if config.kind == "clip" else config.pair_weight
    own = torch.eye(len(images), dtype=images.dtype, device=images.device)
    alike = (groups[:, None] == groups[None, :]).to(images.dtype)
    if config.kind == "siglip":
        labels = weight * own + (1 - weight) * alike
        biased = logits + logit_bias
        return F.binary_cross_entropy_with_logits(biased, labels, reduction="sum") / len(images)
    others = alike / alike.sum(1)
    if config.kind == "soft_target":
        others = (alike / config.temperature).softmax(1)
    targets = weight * own + (1 - weight) * others
    by_image = (targets * logits.log_softmax(1)).sum(1).mean()
    by_text = (targets.T * logits.log_softmax(0)).sum(0).mean()
    return -(by_image + by_text) / 2


def masks_are_equal(device: torch.device) -> bool:
    """Says whether a device computes the dropout masks of the CPU, bit for bit."""
    rows = torch.arange(20)
    on_cpu = keep_mask(12345, rows, 50 * 768 + 1, probability=0.1)
    return torch.equal(keep_mask(12345, rows.to(device), 50 * 768 + 1, probability=0.1).cpu(), on_cpu)


def adapters_are_equal(device: torch.device) -> bool:
    """Says whether an encoder on a device starts from the adapters that the CPU draws, bit for bit."""
    drawn = [build_encoder("tiny", dropout=0.1, seed=3, device=place)[1] for place in ("cpu", device)]
    return all(torch.equal(ours.cpu(), theirs) for theirs, ours in zip(*drawn, strict=True))
