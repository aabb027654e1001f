"""MedCLIP (Wang et al. 2022): Swin-T or ResNet-50, and BioClinicalBERT; both projected to 512 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, mean_of_three
from trainables.models.encoders.report_encoder import LinearHead, ReportEncoder
from trainables.models.encoders.resnet import SpatialMean, resnet_names, resnet_tower
from trainables.models.encoders.swin import UNUSED as UNUSED_IN_SWIN
from trainables.models.encoders.swin import swin_names, swin_tower
from trainables.models.encoders.timm_towers import ImageTower
from trainables.models.files.state_dicts import Shapes, below, load_strictly, open_parts

JOINT_DIM = 512
MAX_TOKENS, NUM_WORDS = 77, 28_996
IMAGE, TEXT = "vision_model.", "text_model."


def load_medclip_swin(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds MedCLIP with its Swin transformer from its converted checkpoint.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    tensors, shapes = open_parts(config, spec, weights=weights)
    tower = swin_tower(below(shapes, f"{IMAGE}model."), size=preprocessing_of(config).size)
    encoder = _medclip(config, spec, shapes, tower)
    if weights:
        where = f"{config.name}: image encoder"
        body = swin_names(below(tensors, f"{IMAGE}model."), tower)
        load_strictly(tower, body, where=where, ignorable=UNUSED_IN_SWIN)
        load_strictly(encoder.image_head.projection, below(tensors, f"{IMAGE}projection_head."), where=where)
        _load_rest(encoder, tensors, config)
    return encoder


def load_medclip_resnet(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds MedCLIP with its ResNet from its converted checkpoint, whose last layer is the projection.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    tensors, shapes = open_parts(config, spec, weights=weights)
    tower = resnet_tower(below(shapes, f"{IMAGE}model."), last=SpatialMean())
    encoder = _medclip(config, spec, shapes, tower)
    if weights:
        where, body = f"{config.name}: image encoder", below(tensors, f"{IMAGE}model.")
        projection = below(body, "fc.")
        trunk = {name: tensor for name, tensor in body.items() if not name.startswith("fc.")}
        load_strictly(tower, resnet_names(trunk), where=where)
        load_strictly(encoder.image_head.projection, projection, where=where)
        _load_rest(encoder, tensors, config)
    return encoder


def _medclip(config: EncoderConfig, spec: EncoderSpec, shapes: Shapes, tower: ImageTower) -> ReportEncoder:
    text = build_bert(
        below(shapes, f"{TEXT}model."),
        config,
        spec,
        mean_of_three,
        num_words=NUM_WORDS,
        max_length=MAX_TOKENS,
    )
    joint = shapes.get(f"{TEXT}projection_head.weight", (JOINT_DIM,))[0]
    return ReportEncoder(
        config,
        spec,
        image=tower,
        image_head=LinearHead(nn.Linear(tower.pooled_dim, joint, bias=False)),
        text=text,
        text_projection=nn.Linear(text.width, joint, bias=False),
        joint_dim=joint,
    )


def _load_rest(encoder: ReportEncoder, tensors: Mapping[str, Tensor], config: EncoderConfig) -> None:
    """Loads what both variants have in common: the text encoder and the logit scale."""
    where = f"{config.name}: text encoder"
    load_strictly(encoder.text.model, below(tensors, f"{TEXT}model."), where=where, ignorable=UNUSED_IN_BERT)
    load_strictly(encoder.text_projection, below(tensors, f"{TEXT}projection_head."), where=where)
    scale = nn.ParameterDict({"logit_scale": encoder.log_logit_scale})
    rest = {n: t for n, t in tensors.items() if not n.startswith((IMAGE, TEXT))}
    load_strictly(scale, rest, where=config.name)
    encoder.weights_are_loaded(config)
