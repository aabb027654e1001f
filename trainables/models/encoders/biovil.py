"""BioViL (Boecking et al. 2022) and BioViL-T (Bannur et al. 2023): ResNet-50 and CXR-BERT, 128 numbers.

BioViL-T compares an image with a prior one; here it sees one image, and its learned stand-in for a prior.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, class_token
from trainables.models.encoders.report_encoder import MapHead, ReportEncoder
from trainables.models.encoders.resnet import POOLED_DIM, resnet_names, resnet_tower
from trainables.models.encoders.resnet import UNUSED as UNUSED_IN_RESNET
from trainables.models.encoders.timm_towers import ImageTower
from trainables.models.files.state_dicts import below, load_strictly, open_parts

JOINT_DIM, PATCH_DIM = 128, 256
MAX_TOKENS, NUM_WORDS = 512, 30_522
IMAGE, TEXT, TEXT_HEAD = "encoder.encoder.", "bert.", "cls_projection_head."
UNUSED = ("cls.", "encoder.vit_pooler.")  # words that were masked; and what compares two images


class WithoutPrior(nn.Module):
    """The map of one image beside what stands for the missing one: [B, 2048, H, W] → [B, 512, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_to_vit = nn.Conv2d(POOLED_DIM, PATCH_DIM, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, PATCH_DIM, 1, 1))

    def forward(self, activations: Tensor) -> Tensor:
        """Returns both, side by side."""
        now = self.backbone_to_vit(activations)
        return torch.cat([now, self.missing_previous_emb.expand_as(now)], dim=1)


def load_biovil(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds BioViL from its two converted files.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    return _load(config, spec, last=nn.Identity(), map_dim=POOLED_DIM, weights=weights)


def load_biovil_t(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds BioViL-T for single images from its two converted files.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    return _load(config, spec, last=WithoutPrior(), map_dim=2 * PATCH_DIM, weights=weights)


def _load(
    config: EncoderConfig, spec: EncoderSpec, *, last: nn.Module, map_dim: int, weights: bool
) -> ReportEncoder:
    tensors, shapes = open_parts(config, spec, weights=weights)
    tower = resnet_tower(below(shapes, IMAGE), last=last)
    tower.pooled_dim = map_dim
    text = build_bert(
        below(shapes, TEXT), config, spec, class_token,
        num_words=NUM_WORDS, max_length=MAX_TOKENS, clean=without_full_stop,
    )  # fmt: skip
    encoder = ReportEncoder(
        config, spec, image=tower, image_head=MapHead(_projector(map_dim)), text=text,
        text_projection=TextHead(text.width), joint_dim=JOINT_DIM,
    )  # fmt: skip
    if weights:
        where = f"{config.name}: image encoder"
        beside = {name: below(tensors, "encoder.").get(name) for name, _ in last.named_parameters()}
        _load_tower(tower, below(tensors, IMAGE), {n: t for n, t in beside.items() if t is not None}, where)
        load_strictly(encoder.image_head.projection, below(tensors, "projector.model."), where=where)
        where = f"{config.name}: text encoder"
        load_strictly(text.model, below(tensors, TEXT), where=where, ignorable=UNUSED_IN_BERT)
        load_strictly(encoder.text_projection, below(tensors, TEXT_HEAD), where=where)
        used = (IMAGE, TEXT, TEXT_HEAD, "projector.model.", *(f"encoder.{name}" for name in beside))
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(used)}
        load_strictly(nn.Module(), rest, where=config.name, ignorable=UNUSED)
        encoder.weights_are_loaded(config)
    return encoder


def _load_tower(tower: ImageTower, body: dict[str, Tensor], beside: dict[str, Tensor], where: str) -> None:
    last = f"blocks.{len(tower.blocks) - 1}.last."
    tensors = resnet_names(body) | {f"{last}{name}": tensor for name, tensor in beside.items()}
    load_strictly(tower, tensors, where=where, ignorable=UNUSED_IN_RESNET)


def _projector(map_dim: int) -> nn.Sequential:
    """Returns the projection of each position of the map."""
    return nn.Sequential(
        nn.Conv2d(map_dim, JOINT_DIM, 1, bias=False),
        nn.BatchNorm2d(JOINT_DIM),
        nn.ReLU(),
        nn.Conv2d(JOINT_DIM, JOINT_DIM, 1),
    )


class TextHead(nn.Module):
    """CXR-BERT's projection of its class token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, JOINT_DIM)
        self.LayerNorm = nn.LayerNorm(JOINT_DIM, eps=1e-12)
        self.dense_to_output = nn.Linear(JOINT_DIM, JOINT_DIM)

    def forward(self, states: Tensor) -> Tensor:
        """Returns projections [B, 128]."""
        hidden: Any = nn.functional.gelu(self.dense_to_hidden(states))
        return self.dense_to_output(self.LayerNorm(hidden))


def without_full_stop(text: str) -> str:
    """Returns a prompt without its last mark, as CXR-BERT was asked by its authors."""
    return text.rstrip(".!?")
