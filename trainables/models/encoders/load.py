"""Loads a dual encoder from its configuration, without a network if possible."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from trainables.config import EncoderConfig
from trainables.models.catalogue.registry import FAMILIES, encoder_fingerprint, find_encoder, preprocessing_of
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.torchvision_import import declare_missing_operators


def load_dual_encoder(
    config: EncoderConfig, *, device: str = "cpu", weights: bool = True, store: Path | None = None
) -> DualEncoder:
    """Loads an encoder onto a device, in float32 and eval mode.

    `weights=False` builds the structure with random weights, only to check names. `store` is the root folder
    of the artifacts, in which a family may save what it computes from its weights.
    """
    declare_missing_operators()
    spec = find_encoder(config)
    family = FAMILIES[spec.family]
    module, _, function = family.loader.partition(":")
    derived = {"store": store} if family.keeps_derived else {}
    load = getattr(importlib.import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # equal random weights every time; the caller's random state is restored
        encoder: DualEncoder = load(config, spec, weights=weights, **derived)
    encoder.family, encoder.name = spec.family, config.name
    encoder.fingerprint = encoder_fingerprint(config) if weights else "random"
    encoder.preprocessing = preprocessing_of(config)
    return encoder.to(device).eval()
