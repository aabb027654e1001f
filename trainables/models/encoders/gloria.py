"""GLoRIA's global embeddings (Huang et al. 2021): ResNet-50 at 299 px, and BioClinicalBERT.

Local scores are not used. Normalisation over the images of a test set is not used either, because a
prediction would then depend on other images.
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import EncoderConfig
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.bert import UNUSED as UNUSED_IN_BERT
from trainables.models.encoders.bert import build_bert, sum_of_four
from trainables.models.encoders.report_encoder import LinearHead, PublishedTensors, ReportEncoder
from trainables.models.encoders.resnet import UNUSED as UNUSED_IN_RESNET
from trainables.models.encoders.resnet import SpatialMean, resnet_names, resnet_tower

SIDE = 299
MAX_TOKENS, NUM_WORDS = 97, 28_996
LOGIT_SCALE = 10.0  # GLoRIA's global temperature, a constant
IMAGE, TEXT = "gloria.img_encoder.", "gloria.text_encoder.model."
UNUSED = (f"{IMAGE}local_embedder.",)  # features of regions


class Enlarge(nn.Module):
    """Enlarges pixels to the input size of Inception, which GLoRIA uses."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns pixels [B, 3, 299, 299]."""
        return F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=True)


def load_gloria(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> ReportEncoder:
    """Builds GLoRIA from its converted checkpoint."""
    published = PublishedTensors(config, spec, weights=weights)
    tower = resnet_tower(published.shapes(f"{IMAGE}model."), first=Enlarge(), last=SpatialMean())
    text = build_bert(
        published.shapes(TEXT), config, spec, sum_of_four,
        num_words=NUM_WORDS, max_length=MAX_TOKENS, clean=words_alone,
    )  # fmt: skip
    projection = nn.Linear(tower.pooled_dim, text.width)
    encoder = ReportEncoder(
        image=tower, image_head=LinearHead(projection), text=text, text_projection=None,
        joint_dim=text.width, logit_scale=LOGIT_SCALE,
    )  # fmt: skip
    published.fill(
        tower, f"{IMAGE}model.", part="image encoder", names=resnet_names, ignorable=UNUSED_IN_RESNET
    )
    published.fill(projection, f"{IMAGE}global_embedder.", part="image encoder")
    published.fill(text.model, TEXT, part="text encoder", ignorable=UNUSED_IN_BERT)
    return published.finish(encoder, ignorable=UNUSED)


def words_alone(text: str) -> str:
    """Returns the words of a text in lower case, as in the training of GLoRIA."""
    return " ".join(re.findall(r"\w+", text.lower()))
