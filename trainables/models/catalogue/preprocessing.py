"""Reads the preprocessing that checkpoints describe. Imports no torch, except for timm and open_clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.config import EncoderConfig, PreprocessingSpec
from trainables.errors import ConfigError
from trainables.models.files.checkpoints import (
    checkpoint_json,
    local_folder,
    openai_file,
    sha256_asked,
    split_dual,
    split_open_clip,
)
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

PIL_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


def read_clip(config: EncoderConfig, default: PreprocessingSpec) -> PreprocessingSpec:
    """Reads `preprocessor_config.json` of a CLIP checkpoint, or only the image size of `config.json`."""
    said = checkpoint_json(config.name, "preprocessor_config.json", revision=config.revision)
    if said is not None:
        size = said.get("crop_size", said.get("size"))
        is_whole_size = isinstance(size, Mapping) and "height" in size
        return _changed(
            default,
            size=size.get("height", size.get("shortest_edge")) if isinstance(size, Mapping) else size,
            mean=said.get("image_mean"),
            std=said.get("image_std"),
            interpolation=_known_interpolation(PIL_INTERPOLATIONS.get(said.get("resample", 3)), config.name),
            crop=None if "crop_size" in said or not is_whole_size else "none",  # SigLIP squashes images
        )
    model = checkpoint_json(config.name, "config.json", revision=config.revision) or {}
    return _changed(default, size=model.get("vision_config", {}).get("image_size"))


def read_open_clip(config: EncoderConfig, default: PreprocessingSpec) -> PreprocessingSpec:
    """Reads `open_clip_config.json` of a folder, or open_clip's tables of architectures and weights.

    For a file of OpenAI, the shapes of its tensors give the image size; all use the same normalisation.
    """
    if config.name.startswith("openai:"):
        from trainables.models.files.openai_files import openai_architecture, shapes_of

        path = openai_file(config.name)
        architecture = openai_architecture(shapes_of(path, sha256_asked(config.revision)), path)
        return _changed(default, size=architecture["vision_cfg"]["image_size"])
    architecture, tag = split_open_clip(config.name)
    if local_folder(architecture):
        said = checkpoint_json(architecture, "open_clip_config.json") or {}
        model, pixels = said.get("model_cfg"), said.get("preprocess_cfg", {})
    else:
        declare_missing_operators()
        import open_clip

        model, pixels = (
            open_clip.get_model_config(architecture),
            open_clip.get_pretrained_cfg(architecture, tag or ""),
        )
    if model is None:
        raise ConfigError(f"encoder.name: '{config.name}': open_clip has no architecture '{architecture}'")
    return _changed(
        default,
        size=model["vision_cfg"].get("image_size"),
        mean=pixels.get("mean"),
        std=pixels.get("std"),
        interpolation=_known_interpolation(pixels.get("interpolation", "bicubic"), config.name),
    )


def read_dual(config: EncoderConfig, default: PreprocessingSpec) -> PreprocessingSpec:
    """Reads the preprocessing of a timm image encoder: `config.json` of a folder, or timm's table."""
    image, _ = split_dual(config.name)
    if local_folder(image):
        said = (checkpoint_json(image, "config.json") or {}).get("pretrained_cfg", {})
    else:
        said = _timm_table(image)
    return _changed(
        default,
        size=said["input_size"][-1] if "input_size" in said else None,
        mean=said.get("mean"),
        std=said.get("std"),
        interpolation=_known_interpolation(said.get("interpolation", "bicubic"), config.name),
    )


READERS: dict[str, Callable[[EncoderConfig, PreprocessingSpec], PreprocessingSpec]] = {
    "clip": read_clip,
    "open_clip": read_open_clip,
    "dual": read_dual,
}


def _timm_table(name: str) -> dict[str, Any]:
    declare_missing_operators()
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return {} if known is None else known.to_dict()


def _known_interpolation(name: str | None, encoder: str) -> str:
    if name not in ("bilinear", "bicubic"):
        raise ConfigError(
            f"encoder.name: '{encoder}' needs interpolation '{name}'; only bilinear and bicubic are supported"
        )
    return name


def _changed(default: PreprocessingSpec, **said: Any) -> PreprocessingSpec:
    """Returns the default preprocessing, updated with the values in a checkpoint's file and validated."""
    return PreprocessingSpec.model_validate(
        {**default.model_dump(), **{k: v for k, v in said.items() if v is not None}}
    )
