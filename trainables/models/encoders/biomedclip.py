"""BiomedCLIP (Zhang et al. 2023): timm's ViT-B/16 and PubMedBERT, from its open_clip checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import HEAD_WIDTH, build_bert, class_token
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.report_encoder import LinearHead, PublishedTensors, ReportEncoder
from trainables.models.encoders.timm_towers import ImageTower, cut_into_blocks
from trainables.models.files.state_dicts import Shapes, numbered
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

JOINT_DIM, HIDDEN_DIM = 512, 640
MAX_TOKENS, NUM_WORDS = 256, 30_522
IMAGE, TEXT = "visual.trunk.", "text.transformer."


def load_biomedclip(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds BiomedCLIP from its converted checkpoint."""
    published = PublishedTensors(config, spec, weights=weights)
    vit = _vision_transformer(published.shapes(IMAGE), size=preprocessing_of(config).size)
    stretched = partial(_stretch_positions, vit=vit)
    published.fill(vit, IMAGE, part="image encoder", names=stretched)
    text = build_bert(
        published.shapes(TEXT), config, spec, class_token, num_words=NUM_WORDS, max_length=MAX_TOKENS
    )
    joint = published.shapes().get("visual.head.proj.weight", (JOINT_DIM,))[0]
    hidden = published.shapes().get("text.proj.0.weight", (HIDDEN_DIM,))[0]
    encoder = ReportEncoder(
        image=ImageTower(cut_into_blocks(vit), vit.embed_dim),
        image_head=LinearHead(nn.Linear(vit.embed_dim, joint, bias=False)),
        text=text,
        text_projection=nn.Sequential(
            nn.Linear(text.width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, joint, bias=False)
        ),
        joint_dim=joint,
    )
    published.fill(encoder.image_head.projection, "visual.head.proj.", part="image encoder")
    published.fill(text.model, TEXT, part="text encoder", ignorable=UNUSED_IN_BERT)
    published.fill(encoder.text_projection, "text.proj.", part="text encoder")
    return published.finish(encoder, has_logit_scale=True)


def _vision_transformer(shapes: Shapes, *, size: int) -> Any:
    declare_missing_operators()
    import timm

    width = shapes.get("cls_token", (1, 1, 768))[-1]
    return timm.create_model(
        "vit_base_patch16_224",
        pretrained=False,
        num_classes=0,
        img_size=size,
        embed_dim=width,
        depth=numbered(shapes, "blocks.") or 12,
        num_heads=max(1, width // HEAD_WIDTH),
    ).eval()


def _stretch_positions(trunk: Mapping[str, Tensor], *, vit: Any) -> dict[str, Tensor]:
    """Returns the tensors, with position embeddings interpolated to the image size of `vit` as in timm."""
    from timm.layers import resample_abs_pos_embed

    stretched = dict(trunk)
    positions = stretched.get("pos_embed")
    if positions is not None and positions.shape != vit.pos_embed.shape:
        stretched["pos_embed"] = resample_abs_pos_embed(
            positions, list(vit.patch_embed.grid_size), num_prefix_tokens=1
        )
    return stretched
