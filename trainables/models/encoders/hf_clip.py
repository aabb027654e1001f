"""CLIP checkpoints of Hugging Face transformers: a Hub repository or a local folder (Radford et al. 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainables.models.encoders.dual_encoder import (
    DualEncoder,
    ImageFeatures,
    Tokens,
    TowerName,
    unit_length,
)


class HFClip(DualEncoder):
    """A `CLIPModel`. Image block 0 is the patch embedding with its LayerNorm; the other blocks are layers.

    The names in a saved adapter are relative to the `CLIPModel`, so `PeftModel.from_pretrained` can load the
    adapter without this project.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        # The checkpoint's `logit_scale` is already a logarithm. The parameter has two names.
        self.log_logit_scale = model.logit_scale
        self.pooled_dim = model.config.vision_config.hidden_size
        self.joint_dim = model.config.projection_dim

    @property
    def adapter_root(self) -> nn.Module:
        """Returns the `CLIPModel`."""
        return self.model

    def blocks(self, tower: TowerName) -> tuple[str, ...]:
        """Returns the layers of a tower; the patch embedding of the image tower is also a block."""
        half = "vision_model" if tower == "image" else "text_model"
        layers = len(self.model.get_submodule(half).encoder.layers)
        names = [f"model.{half}.encoder.layers.{i}" for i in range(layers)]
        return (f"model.{half}.embeddings", *names) if tower == "image" else tuple(names)

    def projections(self) -> dict[TowerName, str]:
        """Returns both projections."""
        return {"image": "model.visual_projection", "text": "model.text_projection"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both towers of the `CLIPModel`."""
        return {
            "image": ("model.vision_model.", "model.visual_projection."),
            "text": ("model.text_model.", "model.text_projection."),
        }

    def run_image_blocks(self, activations: Tensor, first: int, last: int) -> Tensor:
        """Runs blocks; after the last block, returns the normalised class token."""
        vision = self.model.vision_model
        if first == 0 < last:
            # For other image sizes than in training, position embeddings are interpolated.
            embedded = vision.embeddings(activations, interpolate_pos_encoding=True)
            activations = self.normalise_embeddings(embedded)
        for layer in vision.encoder.layers[max(first - 1, 0) : max(last - 1, 0)]:
            activations = layer(activations, None)
        if first < last == len(vision.encoder.layers) + 1:
            activations = vision.post_layernorm(self.output_tokens(activations))
        return activations

    def normalise_embeddings(self, embedded: Tensor) -> Tensor:
        """Applies the LayerNorm before the layers, which SigLIP does not have."""
        return self.model.vision_model.pre_layrnorm(embedded)

    def output_tokens(self, tokens: Tensor) -> Tensor:
        """Returns the output of the last layer: for CLIP, only the class token [B, P]."""
        return tokens[:, 0]

    def project_image(self, outputs: Tensor) -> ImageFeatures:
        """Returns the class token and its projection."""
        return ImageFeatures(outputs, unit_length(self.model.visual_projection(outputs)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns the projected state at the end-of-text token [B, D], unit length."""
        ids, mask = (part.to(self.log_logit_scale.device) for part in tokens)
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return unit_length(self.model.text_projection(pooled))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens from the tokenizer of the checkpoint."""
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return Tokens(encoded["input_ids"], encoded["attention_mask"])
