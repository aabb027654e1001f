"""The LoRA presets of each architecture, with the module names of our encoders."""

from __future__ import annotations

import re

from trainables.models.encoder_spec import Tower

BERT = Tower(
    presets={
        "qv": ("query", "value"),
        "qv_mlp": ("query", "value", r"intermediate\.dense", r"\d+\.output\.dense"),
        "all": ("query", "key", "value", "dense"),
    }
)


def _clip_presets(up: str, down: str) -> dict[str, tuple[str, ...]]:
    """Returns the presets of CLIP's transformer. The names of the MLP's two layers depend on the library."""
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    return {
        "qv": ("q_proj", "v_proj"),
        "qkv": attention[:3],
        "qkvo": attention,
        "mlp": (up, down),
        "qv_mlp": ("q_proj", "v_proj", up, down),
        "all": (*attention, up, down),
    }


CLIP_TOWER = Tower(_clip_presets("fc1", "fc2"))
OPEN_CLIP_TEXT = Tower(_clip_presets("c_fc", "c_proj"))
OUTER, INNER = (r"blocks\.[1-9]\d*\.conv1", r"blocks\.[1-9]\d*\.conv3"), (r"blocks\.[1-9]\d*\.conv2",)
OPEN_CLIP_IMAGE = Tower(  # only a ResNet has bottlenecks; its q, k and v are those of the attention pooling
    {
        **OPEN_CLIP_TEXT.presets,
        "conv1x1": OUTER,
        "conv3x3": INNER,
        "conv": (*OUTER, *INNER),
        "attnpool": ("q_proj", "k_proj", "v_proj"),
        "all": (*OPEN_CLIP_TEXT.presets["all"], *OUTER, *INNER),
    }
)
ANY_TOWER = Tower(presets={"all": (r"\w+",)})
RESNET = Tower(  # torchvision's ResNet; the stem, the shortcuts and every BatchNorm stay frozen
    presets={
        "pointwise": (r"\d+\.\d+\.conv1", r"\d+\.\d+\.conv3"),
        "spatial": (r"\d+\.\d+\.conv2",),
        "all": (r"\d+\.\d+\.conv1", r"\d+\.\d+\.conv2", r"\d+\.\d+\.conv3"),
    }
)
SWIN = Tower(
    presets={
        "qv": ("q_proj", "v_proj"),
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "qkvo": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "qv_mlp": ("q_proj", "v_proj", "fc1", "fc2"),
        "all": ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
    }
)
TIMM_VIT = Tower(  # q, k and v are one module
    presets={
        "qkv": ("qkv",),
        "qkvo": ("qkv", r"attn\.proj"),
        "mlp": ("fc1", "fc2"),
        "all": ("qkv", r"attn\.proj", "fc1", "fc2"),
    }
)


def leaf_name(module: str) -> str:
    """Returns the part of a module's name after the last number; this part is equal in every block."""
    return re.split(r"(?:^|\.)\d+\.", module)[-1]
