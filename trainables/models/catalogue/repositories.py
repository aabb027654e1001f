"""Looks up the Hub repositories of the names in timm and open_clip."""

from __future__ import annotations

from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.


def timm_repository(name: str) -> str:
    """Returns the Hub repository with the weights of a timm model."""
    declare_missing_operators()
    import timm

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        raise ConfigError(
            f"encoder.name: timm has no weights of '{name}' on the Hub; name a tag (ARCH.TAG) or a folder"
        )
    architecture = name if "." in name else f"{name}.{known.tag}"
    return known.hf_hub_id + architecture if known.hf_hub_id.endswith("/") else known.hf_hub_id


def tag_repository(architecture: str, tag: str) -> str:
    """Returns the Hub repository of an open_clip tag, after a check that the tag fits the architecture."""
    declare_missing_operators()
    import open_clip

    known = open_clip.get_pretrained_cfg(architecture, tag)
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise ConfigError(
            f"encoder.name: open_clip has no weights '{tag}' of {architecture} (it has: {tags})"
        )
    if known.get("quick_gelu") and not (open_clip.get_model_config(architecture) or {}).get("quick_gelu"):
        raise ConfigError(
            f"encoder.name: the weights '{tag}' were trained with QuickGELU; name '{architecture}-quickgelu'"
        )
    if not known.get("hf_hub"):
        raise WeightsUnavailable(
            f"open_clip:{architecture}@{tag}: published only as a pickle, and pickles are not read"
        )
    return "/".join(known["hf_hub"].split("/")[:2])
