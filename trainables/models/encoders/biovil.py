"""BioViL (Boecking et al. 2022) and BioViL-T (Bannur et al. 2023): ResNet-50 and CXR-BERT, 128 dimensions.

BioViL-T can compare an image with a prior image. This project passes one image, and BioViL-T uses its learned
placeholder for the prior image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, class_token
from trainables.models.encoders.report_encoder import MapHead, PublishedTensors, ReportEncoder
from trainables.models.encoders.resnet import POOLED_DIM, resnet_names, resnet_tower
from trainables.models.encoders.resnet import UNUSED as UNUSED_IN_RESNET
from trainables.models.files.state_dicts import below

JOINT_DIM, PATCH_DIM = 128, 256
MAX_TOKENS, NUM_WORDS = 512, 30_522
IMAGE, TEXT, TEXT_HEAD = "encoder.", "bert.", "cls_projection_head."
UNUSED = ("cls.",)  # the head that predicts masked words


class WithoutPrior(nn.Module):
    """Appends the learned placeholder for a prior image: [B, 2048, H, W] → [B, 512, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_to_vit = nn.Conv2d(POOLED_DIM, PATCH_DIM, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, PATCH_DIM, 1, 1))

    def forward(self, activations: Tensor) -> Tensor:
        """Returns the map of the image, concatenated with the placeholder."""
        now = self.backbone_to_vit(activations)
        return torch.cat([now, self.missing_previous_emb.expand_as(now)], dim=1)


def load_biovil(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds BioViL from its two converted files."""
    return _load(config, spec, last=nn.Identity(), map_dim=POOLED_DIM, weights=weights)


def load_biovil_t(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds BioViL-T for single images from its two converted files."""
    return _load(config, spec, last=WithoutPrior(), map_dim=2 * PATCH_DIM, weights=weights)


def _load(
    config: EncoderConfig, spec: EncoderSpec, *, last: nn.Module, map_dim: int, weights: bool
) -> ReportEncoder:
    published = PublishedTensors(config, spec, weights=weights)
    tower = resnet_tower(published.shapes(f"{IMAGE}encoder."), last=last)
    tower.pooled_dim = map_dim
    text = build_bert(
        published.shapes(TEXT), config, spec, class_token,
        num_words=NUM_WORDS, max_length=MAX_TOKENS, clean=without_full_stop,
    )  # fmt: skip
    encoder = ReportEncoder(
        image=tower, image_head=MapHead(_projector(map_dim)), text=text,
        text_projection=TextHead(text.width), joint_dim=JOINT_DIM,
    )  # fmt: skip

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors of the ResNet and of `last` under the names in `resnet_tower`."""
        where = f"blocks.{len(tower.blocks) - 1}.last."
        beside = {f"{where}{n}": tensors[n] for n, _ in last.named_parameters() if n in tensors}
        others = {n: t for n, t in tensors.items() if n.startswith("vit_pooler.")}
        return resnet_names(below(tensors, "encoder.")) | beside | others

    ignorable = (*UNUSED_IN_RESNET, "vit_pooler.")  # the second input is for comparing two images
    published.fill(tower, IMAGE, part="image encoder", names=names, ignorable=ignorable)
    published.fill(encoder.image_head.projection, "projector.model.", part="image encoder")
    published.fill(text.model, TEXT, part="text encoder", ignorable=UNUSED_IN_BERT)
    published.fill(encoder.text_projection, TEXT_HEAD, part="text encoder")
    return published.finish(encoder, ignorable=UNUSED)


def _projector(map_dim: int) -> nn.Sequential:
    """Returns the layers that project each position of the map."""
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
    """Returns a prompt without its final punctuation mark, as in the prompts of CXR-BERT's authors."""
    return text.rstrip(".!?")
