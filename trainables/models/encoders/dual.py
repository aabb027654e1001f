"""Dual encoders from a separately trained image encoder and sentence encoder, joined by a projection.

An example is `lite0-minilm`. `dual:<image>+<text>` joins any timm image encoder and any Hugging Face text
encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.dual_encoder import (
    ImageFeatures,
    Tokens,
    TowerName,
    TwoTowerEncoder,
    unit_length,
)
from trainables.models.encoders.timm_towers import ImageTower, load_timm_tower
from trainables.models.files.checkpoints import checkpoint_folder, from_checkpoint, split_dual
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

INITIAL_LOG_LOGIT_SCALE = 2.6593  # ln(1 / 0.07): CLIP §2.3


class SentenceEncoder(nn.Module):
    """A Hugging Face text model that embeds a text as the mean of its last states without padding."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def load(cls, folder: Path, *, weights: bool) -> SentenceEncoder:
        """Loads a model and its tokenizer from a checkpoint folder with safetensors."""
        declare_missing_operators()
        from transformers import AutoModel, AutoTokenizer

        model = from_checkpoint(AutoModel, folder, weights=weights)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return cls(model, tokenizer, min(model.config.max_position_embeddings, tokenizer.model_max_length))

    @property
    def width(self) -> int:
        """Returns the length of a sentence embedding."""
        return self.model.config.hidden_size

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the longest text."""
        encoded = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return Tokens(encoded["input_ids"], encoded["attention_mask"])

    def forward(self, tokens: Tokens) -> Tensor:
        """Returns sentence embeddings [B, width], unit length."""
        states = self.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
        mask = tokens.attention_mask.unsqueeze(-1).to(torch.promote_types(states.dtype, torch.float32))
        return unit_length((states * mask).sum(1) / mask.sum(1))


class JoinedEncoder(TwoTowerEncoder):
    """An image tower projected into the space of a sentence encoder (LiT, Zhai et al. 2022).

    The joint space is that of the sentence encoder. Texts need no projection, so with a frozen text tower
    every text is embedded only once.
    """

    def __init__(self, image: ImageTower, text: SentenceEncoder, projection: nn.Linear) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.image_projection = projection
        self.log_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_LOGIT_SCALE))
        self.pooled_dim = image.pooled_dim
        self.joint_dim = projection.out_features

    def projections(self) -> dict[TowerName, str]:
        """Returns the image projection; the text side has none."""
        return {"image": "image_projection"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns the image tower with the projection, and the sentence encoder."""
        return {"image": ("image.", "image_projection."), "text": ("text.",)}

    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Projects the pooled features."""
        return ImageFeatures(outputs, unit_length(self.image_projection(outputs)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns sentence embeddings [B, D], unit length."""
        return self.text(Tokens(*(part.to(self.log_logit_scale.device) for part in tokens)))


def load_joined(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> JoinedEncoder:
    """Joins the timm image encoder and the Hugging Face text encoder that `dual:IMAGE+TEXT` names.

    The projection is random, but equal every time. Zero-shot scores have no meaning before training.
    """
    image_name, text_name = split_dual(config.name)
    image = load_timm_tower(image_name, size=preprocessing_of(config).size, weights=weights)
    text = SentenceEncoder.load(checkpoint_folder(text_name, weights=weights), weights=weights)
    projection = nn.Linear(image.pooled_dim, text.width)
    nn.init.orthogonal_(projection.weight, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(projection.bias)
    return JoinedEncoder(image, text, projection)
