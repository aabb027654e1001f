"""MedCLIP (Wang et al. 2022): Swin-T or ResNet-50, and BioClinicalBERT, both projected to 512 dimensions."""

from __future__ import annotations

from functools import partial

from torch import nn

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, mean_of_three
from trainables.models.encoders.report_encoder import LinearHead, PublishedTensors, ReportEncoder
from trainables.models.encoders.resnet import UNUSED as UNUSED_IN_RESNET
from trainables.models.encoders.resnet import SpatialMean, resnet_names, resnet_tower
from trainables.models.encoders.swin import UNUSED as UNUSED_IN_SWIN
from trainables.models.encoders.swin import swin_names, swin_tower
from trainables.models.encoders.timm_towers import ImageTower

JOINT_DIM = 512
MAX_TOKENS, NUM_WORDS = 77, 28_996
IMAGE, TEXT = "vision_model.", "text_model."


def load_medclip_swin(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds MedCLIP with its Swin transformer from its converted checkpoint."""
    published = PublishedTensors(config, spec, weights=weights)
    tower = swin_tower(published.shapes(f"{IMAGE}model."), size=preprocessing_of(config).size)
    names = partial(swin_names, tower=tower)
    published.fill(tower, f"{IMAGE}model.", part="image encoder", names=names, ignorable=UNUSED_IN_SWIN)
    return _medclip(config, spec, published, tower, projection=f"{IMAGE}projection_head.")


def load_medclip_resnet(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds MedCLIP with its ResNet from its converted checkpoint, whose last layer is the projection."""
    published = PublishedTensors(config, spec, weights=weights)
    tower = resnet_tower(published.shapes(f"{IMAGE}model."), last=SpatialMean())
    published.fill(
        tower, f"{IMAGE}model.", part="image encoder", names=resnet_names, ignorable=UNUSED_IN_RESNET
    )
    return _medclip(config, spec, published, tower, projection=f"{IMAGE}model.fc.")


def _medclip(
    config: EncoderConfig, spec: EncoderSpec, published: PublishedTensors, tower: ImageTower, projection: str
) -> ReportEncoder:
    """Returns a MedCLIP with the given image tower."""
    text = build_bert(
        published.shapes(f"{TEXT}model."), config, spec, mean_of_three,
        num_words=NUM_WORDS, max_length=MAX_TOKENS,
    )  # fmt: skip
    joint = published.shapes(TEXT).get("projection_head.weight", (JOINT_DIM,))[0]
    encoder = ReportEncoder(
        image=tower,
        image_head=LinearHead(nn.Linear(tower.pooled_dim, joint, bias=False)),
        text=text,
        text_projection=nn.Linear(text.width, joint, bias=False),
        joint_dim=joint,
    )
    published.fill(encoder.image_head.projection, projection, part="image encoder")
    published.fill(text.model, f"{TEXT}model.", part="text encoder", ignorable=UNUSED_IN_BERT)
    published.fill(encoder.text_projection, f"{TEXT}projection_head.", part="text encoder")
    return published.finish(encoder, has_logit_scale=True)
