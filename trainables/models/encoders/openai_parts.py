"""CheXzero and BioCLIP: CLIPs whose tensors have OpenAI's names, from a converted checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import preprocessing_of
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.open_clip_models import OpenClip
from trainables.models.files.openai_files import NOT_WEIGHTS, openai_architecture
from trainables.models.files.state_dicts import load_strictly, open_parts
from trainables.models.files.weights import CONFIGURATION, part_file
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.


def load_openai_part(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> OpenClip:
    """Builds a CLIP; depth and width come from the tensors, or from the named architecture."""
    declare_missing_operators()
    import open_clip
    from open_clip.model import resize_pos_embed

    tensors, shapes = open_parts(config, spec, weights=weights)
    if shapes:
        architecture = openai_architecture(shapes, Path(config.name))
    else:
        architecture = dict(open_clip.get_model_config(spec.architecture) or {})
    architecture["quick_gelu"] = _has_quick_gelu(config, spec, weights=weights)
    vision = {**architecture["vision_cfg"], "image_size": preprocessing_of(config).size}
    model: Any = open_clip.CLIP(**{**architecture, "vision_cfg": vision})
    if weights:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in NOT_WEIGHTS}
        resize_pos_embed(tensors, model)
        load_strictly(model, tensors, where=config.name, ignorable=("attn_mask",))
    return OpenClip(model.eval(), open_clip.SimpleTokenizer())


def _has_quick_gelu(config: EncoderConfig, spec: EncoderSpec, *, weights: bool) -> bool:
    """Returns whether an encoder was trained with QuickGELU, which its tensors do not show."""
    if not spec.has_configuration or not weights:
        return bool(spec.architecture and spec.architecture.endswith("quickgelu"))
    said = json.loads(part_file(config.name, spec, CONFIGURATION).read_text())
    return bool(said["model_cfg"].get("quick_gelu", False))
