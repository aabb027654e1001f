"""BiomedCLIP (Zhang et al. 2023): timm's ViT-B/16 and PubMedBERT, from its open_clip checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import HEAD_WIDTH, build_bert, class_token
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.report_encoder import LinearHead, ReportEncoder
from trainables.models.encoders.timm_towers import ImageTower, cut_into_blocks
from trainables.models.files.state_dicts import Shapes, below, load_strictly, numbered, open_parts
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only an encoder of this library loads it, once torchvision can be imported.

JOINT_DIM, HIDDEN_DIM = 512, 640
MAX_TOKENS, NUM_WORDS = 256, 30_522
IMAGE, TEXT = "visual.trunk.", "text.transformer."


def load_biomedclip(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds BiomedCLIP from its converted checkpoint.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    tensors, shapes = open_parts(config, spec, weights=weights)
    size = preprocessing_of(config).size
    vit = _vision_transformer(below(shapes, IMAGE), size=size)
    if weights:
        trunk = below(tensors, IMAGE)
        _stretch_positions(trunk, vit)
        load_strictly(vit, trunk, where=f"{config.name}: image encoder")
    width = vit.embed_dim
    text = build_bert(
        below(shapes, TEXT), config, spec, class_token, num_words=NUM_WORDS, max_length=MAX_TOKENS
    )
    joint = shapes.get("visual.head.proj.weight", (JOINT_DIM,))[0]
    hidden = shapes.get("text.proj.0.weight", (HIDDEN_DIM,))[0]
    encoder = ReportEncoder(
        config,
        spec,
        image=ImageTower(cut_into_blocks(vit), width),
        image_head=LinearHead(nn.Linear(width, joint, bias=False)),
        text=text,
        text_projection=nn.Sequential(
            nn.Linear(text.width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, joint, bias=False)
        ),
        joint_dim=joint,
    )
    if weights:
        load_strictly(encoder.image_head.projection, below(tensors, "visual.head.proj."), where=config.name)
        where = f"{config.name}: text encoder"
        load_strictly(text.model, below(tensors, TEXT), where=where, ignorable=UNUSED_IN_BERT)
        load_strictly(encoder.text_projection, below(tensors, "text.proj."), where=where)
        used = (IMAGE, TEXT, "visual.head.proj.", "text.proj.")
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(used)}
        load_strictly(nn.ParameterDict({"logit_scale": encoder.log_logit_scale}), rest, where=config.name)
        encoder.weights_are_loaded(config)
    return encoder


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


def _stretch_positions(trunk: dict[str, Any], vit: Any) -> None:
    """Stretches the position embeddings to another image size, as timm does."""
    from timm.layers import resample_abs_pos_embed

    positions = trunk.get("pos_embed")
    if positions is not None and positions.shape != vit.pos_embed.shape:
        trunk["pos_embed"] = resample_abs_pos_embed(
            positions, list(vit.patch_embed.grid_size), num_prefix_tokens=1
        )
