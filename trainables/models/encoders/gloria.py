"""GLoRIA's global embeddings (Huang et al. 2021): ResNet-50 at 299 px, and BioClinicalBERT.

Its local scores, and its normalisation over the images of a test set, are left out: with the second one a
prediction would depend on the other images.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, sum_of_four
from trainables.models.encoders.report_encoder import LinearHead, ReportEncoder
from trainables.models.encoders.resnet import UNUSED as UNUSED_IN_RESNET
from trainables.models.encoders.resnet import SpatialMean, resnet_names, resnet_tower
from trainables.models.files.state_dicts import below, load_strictly, open_parts

SIDE = 299
UNUSED = ("local_embedder.",)  # of regions
MAX_TOKENS, NUM_WORDS = 97, 28_996
LOGIT_SCALE = 10.0  # its global temperature, which is a constant
IMAGE, TEXT = "gloria.img_encoder.", "gloria.text_encoder."


class Enlarge(nn.Module):
    """Pixels at the size of Inception's, which GLoRIA inherited."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns pixels [B, 3, 299, 299]."""
        return F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=True)


def load_gloria(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> ReportEncoder:
    """Builds GLoRIA from its converted checkpoint.

    Raises:
        ConfigError: tensors that do not fit it.
        WeightsUnavailable: not converted on this machine.
    """
    del store  # nothing is derived from the weights
    tensors, shapes = open_parts(config, spec, weights=weights)
    tower = resnet_tower(below(shapes, f"{IMAGE}model."), first=Enlarge(), last=SpatialMean())
    text = build_bert(
        below(shapes, f"{TEXT}model."), config, spec, sum_of_four,
        num_words=NUM_WORDS, max_length=MAX_TOKENS, clean=words_alone,
    )  # fmt: skip
    projection = nn.Linear(tower.pooled_dim, text.width)
    encoder = ReportEncoder(
        config, spec, image=tower, image_head=LinearHead(projection), text=text, text_projection=None,
        joint_dim=text.width, logit_scale=LOGIT_SCALE,
    )  # fmt: skip
    if weights:
        image, texts = below(tensors, IMAGE), below(tensors, TEXT)
        place = f"{config.name}: image encoder"
        load_strictly(tower, resnet_names(below(image, "model.")), where=place, ignorable=UNUSED_IN_RESNET)
        load_strictly(projection, below(image, "global_embedder."), where=place)
        rest = {n: t for n, t in image.items() if not n.startswith(("model.", "global_embedder."))}
        load_strictly(nn.Module(), rest, where=place, ignorable=UNUSED)
        load_strictly(
            text.model, below(texts, "model."), where=f"{config.name}: text encoder", ignorable=UNUSED_IN_BERT
        )
        others = {n: t for n, t in tensors.items() if not n.startswith((IMAGE, f"{TEXT}model."))}
        load_strictly(nn.Module(), others, where=config.name)
        encoder.weights_are_loaded(config)
    return encoder


def words_alone(text: str) -> str:
    """Returns the words of a text in lower case, as GLoRIA was trained on them."""
    return " ".join(re.findall(r"\w+", text.lower()))
