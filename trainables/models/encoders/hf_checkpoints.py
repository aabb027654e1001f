"""Loads CLIP and SigLIP checkpoints of Hugging Face transformers: a Hub repository or a local folder."""

from __future__ import annotations

from typing import Any

from trainables.config import EncoderConfig
from trainables.errors import ConfigError
from trainables.models.catalogue.registry import hub_checkpoint
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.hf_clip import HFClip
from trainables.models.encoders.hf_siglip import HFSiglip
from trainables.models.files.checkpoints import checkpoint_json, from_checkpoint
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.


def load_clip(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> HFClip:
    """Loads a CLIP checkpoint from a folder, the Hub's cache or the Hub."""
    if not weights and spec.architecture:
        return HFClip(_random(spec.architecture), None)
    folder = hub_checkpoint(config, spec, weights=weights)
    kind = (checkpoint_json(str(folder), "config.json") or {}).get("model_type")
    if kind not in ("clip", "siglip"):
        raise ConfigError(
            f"encoder.name: '{config.name}' is a checkpoint of type '{kind}'; this family loads 'clip' and "
            "'siglip'"
        )
    declare_missing_operators()
    from transformers import AutoTokenizer, CLIPModel, SiglipModel

    model = from_checkpoint(CLIPModel if kind == "clip" else SiglipModel, folder, weights=weights)
    tokenizer = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if weights
        else None
    )
    return (HFClip if kind == "clip" else HFSiglip)(model, tokenizer)


def _random(architecture: str) -> Any:
    """Returns a random `CLIPModel` by open_clip's name of the architecture, without a network."""
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
