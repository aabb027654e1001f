"""The captioner: its model, where its weights are, and how to get them. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from trainables.artifacts import fingerprint
from trainables.config import CaptionerConfig, PreprocessingSpec
from trainables.errors import WeightsUnavailable
from trainables.models.catalogue.availability import cached_folder
from trainables.models.catalogue.medical import CLIP_PIXELS
from trainables.models.files.checkpoints import (
    checkpoint_folder,
    checkpoint_json,
    local_folder,
    weights_identity,
)
from trainables.models.files.weights import how_to_convert

REVISIONS = {"Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b"}
"""The tested commits. They contain only a pickle, which is never read."""
PIXELS = CLIP_PIXELS.model_copy(update={"size": 384})


def captioner_folder(config: CaptionerConfig) -> Path:
    """Returns the folder of a BLIP checkpoint with safetensors, or raises WeightsUnavailable."""
    try:
        return checkpoint_folder(config.name, _revision(config))
    except WeightsUnavailable as error:
        raise WeightsUnavailable(_how_to_get(config)) from error


def missing_captioner(config: CaptionerConfig) -> str | None:
    """Returns how to get the missing safetensors of a captioner, or None if none are missing. No network."""
    folder = local_folder(config.name) or cached_folder(config.name, _revision(config))
    return None if folder and any(folder.glob("*.safetensors")) else _how_to_get(config)


def may_be_fetched(config: CaptionerConfig) -> bool:
    """Returns whether the Hub may have safetensors of a captioner; the tested commits have none."""
    return local_folder(config.name) is None and _revision(config) not in REVISIONS.values()


def captioner_fingerprint(config: CaptionerConfig) -> str:
    """Returns the fingerprint of a captioner: its weights and its settings."""
    weights = weights_identity(config.name, _revision(config))
    return fingerprint("captioner", weights, captioner_preprocessing(config), config.max_new_tokens)


def known_captioner(config: CaptionerConfig) -> str | None:
    """Returns `captioner_fingerprint`, or None if the weights are missing and no revision is known."""
    if missing_captioner(config) and not may_be_fetched(config):
        return None
    try:
        return captioner_fingerprint(config)
    except WeightsUnavailable:
        return None


def captioner_preprocessing(config: CaptionerConfig) -> PreprocessingSpec:
    """Returns the preprocessing of a captioner, at the image size in its `config.json`."""
    said = checkpoint_json(config.name, "config.json", revision=_revision(config)) or {}
    size = said.get("vision_config", {}).get("image_size", PIXELS.size)
    return PreprocessingSpec.model_validate({**PIXELS.model_dump(), "size": size})


def _how_to_get(config: CaptionerConfig) -> str:
    how = how_to_convert(config.name, local_folder(config.name), _revision(config))
    return f"captioner.name={config.name}: no safetensors on this machine, and pickles are not read; {how}"


def _revision(config: CaptionerConfig) -> str | None:
    return config.revision or REVISIONS.get(config.name)
