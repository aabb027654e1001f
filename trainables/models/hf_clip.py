"""CLIP checkpoints of Hugging Face transformers: a Hub repository or a local folder (Radford et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.errors import ConfigError
from trainables.models.checkpoints import checkpoint_json, from_checkpoint
from trainables.models.dual_encoder import Blocks, DualEncoder, ImageFeatures, Tokens, TowerName, unit_length
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.registry import encoder_fingerprint, hub_checkpoint, preprocessing_of
from trainables.models.torchvision_import import declare_missing_operators


class HFClip(DualEncoder):
    """A `CLIPModel`. Image block 0 is the patch embedding with its LayerNorm, the others are layers.

    A saved adapter is relative to the `CLIPModel`, so `PeftModel.from_pretrained` loads it without this
    project.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        # The checkpoint's `logit_scale` is already a logarithm; one parameter under two names.
        self.log_logit_scale = model.logit_scale
        self.pooled_dim = model.config.vision_config.hidden_size
        self.joint_dim = model.config.projection_dim

    @property
    def adapter_root(self) -> nn.Module:
        """The `CLIPModel`."""
        return self.model

    def blocks(self, tower: TowerName) -> Blocks:
        """Returns the layers of a tower; the image tower's patch embedding is a block too."""
        half = "vision_model" if tower == "image" else "text_model"
        layers = len(self.model.get_submodule(half).encoder.layers)
        names = [f"model.{half}.encoder.layers.{i}" for i in range(layers)]
        return Blocks((f"model.{half}.embeddings", *names) if tower == "image" else tuple(names))

    def projections(self) -> dict[TowerName, str]:
        """Returns both projections."""
        return {"image": "model.visual_projection", "text": "model.text_projection"}

    def towers(self) -> dict[TowerName, tuple[str, ...]]:
        """Returns both halves of the `CLIPModel`."""
        return {
            "image": ("model.vision_model.", "model.visual_projection."),
            "text": ("model.text_model.", "model.text_projection."),
        }

    def encode_image_prefix(self, pixels: Tensor, cut: int) -> Tensor:
        """Runs the embeddings and the first `cut` - 1 layers."""
        return self._run(pixels, 0, cut)

    def encode_image_suffix(self, activations: Tensor, cut: int) -> ImageFeatures:
        """Runs the other layers; `pooled` is the normalised class token."""
        pooled = self._run(activations, cut, self._num_blocks)
        return ImageFeatures(pooled, unit_length(self.model.visual_projection(pooled)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Returns the projected state at the end-of-text token [B, D], unit length."""
        ids, mask = (part.to(self.log_logit_scale.device) for part in tokens)
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return unit_length(self.model.text_projection(pooled))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens of the checkpoint's own tokenizer."""
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return Tokens(encoded["input_ids"], encoded["attention_mask"])

    @property
    def _num_blocks(self) -> int:
        return len(self.model.vision_model.encoder.layers) + 1

    def _run(self, activations: Tensor, first: int, last: int) -> Tensor:
        vision = self.model.vision_model
        if first == 0 < last:
            # A size the checkpoint was not trained at stretches its position embeddings.
            embedded = vision.embeddings(activations, interpolate_pos_encoding=True)
            activations = vision.pre_layrnorm(embedded)
        for layer in vision.encoder.layers[max(first - 1, 0) : max(last - 1, 0)]:
            activations = layer(activations, None)
        if first < last == self._num_blocks:
            activations = vision.post_layernorm(activations[:, 0])
        return activations


def load_clip(config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None) -> HFClip:
    """Loads a CLIP checkpoint from a folder, the Hub's cache or the Hub.

    Raises:
        ConfigError: a checkpoint of another kind, or one with tensors missing.
        WeightsUnavailable: neither here nor reachable.
    """
    del store  # nothing is derived from the weights
    if not weights and spec.architecture:
        return _named(HFClip(_random(spec.architecture), None), config, spec, weights=False)
    folder = hub_checkpoint(config, spec, weights=weights)
    kind = (checkpoint_json(str(folder), "config.json") or {}).get("model_type")
    if kind not in ("clip", "siglip"):
        raise ConfigError(
            f"encoder.name: '{config.name}' is a checkpoint of type '{kind}'; this family loads 'clip' and "
            "'siglip'"
        )
    declare_missing_operators()
    from transformers import AutoTokenizer, CLIPModel, SiglipModel

    from trainables.models.hf_siglip import HFSiglip  # which is an `HFClip`

    model = from_checkpoint(CLIPModel if kind == "clip" else SiglipModel, folder, weights=weights)
    tokenizer = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if weights
        else None
    )
    encoder = (HFClip if kind == "clip" else HFSiglip)(model, tokenizer)
    return _named(encoder, config, spec, weights=weights)


def _random(architecture: str) -> Any:
    """Returns a `CLIPModel` by open_clip's name of its architecture, which needs no network."""
    import open_clip
    from transformers import CLIPConfig, CLIPModel

    said: Any = open_clip.get_model_config(architecture)
    vision, text, joint_dim = said["vision_cfg"], said["text_cfg"], said["embed_dim"]
    config = CLIPConfig(
        vision_config={
            **_layers(vision["width"], vision["layers"], vision["width"] // 64, joint_dim),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config=_layers(text["width"], text["layers"], text["heads"], joint_dim),
        projection_dim=joint_dim,
    )
    return CLIPModel(config).eval()


def _layers(width: int, layers: int, heads: int, joint_dim: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": joint_dim,
    }


def _named(encoder: HFClip, config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> HFClip:
    encoder.family = spec.family
    encoder.name = config.name
    encoder.fingerprint = encoder_fingerprint(config) if weights else "random"
    encoder.preprocessing = preprocessing_of(config)
    return encoder
