"""SigLIP checkpoints of Hugging Face transformers (Zhai et al. 2023): attention pooling and no projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.encoders.dual_encoder import ImageFeatures, Tokens, TowerName, unit_length
from trainables.models.encoders.hf_clip import HFClip


class HFSiglip(HFClip):
    """A `SiglipModel`. The last image block returns patches, which a head pools into the joint space.

    `pooled` is the output of the head before normalisation.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(()))  # the checkpoint has [1]
        model.config.projection_dim = model.config.vision_config.hidden_size
        super().__init__(model, tokenizer)

    def projections(self) -> dict[TowerName, str]:
        """Returns the heads: attention pooling of the patches, and a linear map of texts."""
        return {"image": "model.vision_model.head", "text": "model.text_model.head"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both towers of the `SiglipModel`."""
        return {"image": ("model.vision_model.",), "text": ("model.text_model.",)}

    def normalise_embeddings(self, embedded: Tensor) -> Tensor:
        """Returns the embeddings unchanged."""
        return embedded

    def output_tokens(self, tokens: Tensor) -> Tensor:
        """Returns all patches."""
        return tokens

    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Returns the pooled patches."""
        pooled = self.model.vision_model.head(outputs)
        return ImageFeatures(pooled, unit_length(pooled))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns the state of the last position [B, D], unit length; SigLIP reads padding too."""
        ids = tokens.input_ids.to(self.log_logit_scale.device)
        return unit_length(self.model.text_model(input_ids=ids).pooler_output)

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the context length, so that no text depends on its neighbours."""
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return Tokens(encoded["input_ids"], torch.ones_like(encoded["input_ids"]))
