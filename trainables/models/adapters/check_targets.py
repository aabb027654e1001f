"""Checks `lora.target_modules` of a trial before the trial starts, without weights."""

from __future__ import annotations

from functools import cache
from typing import Any

from trainables.config import AdaptConfig, EncoderConfig, LoraConfig, TrialConfig
from trainables.errors import ConfigError
from trainables.models.adapters.targets import _Wanted, planned_targets
from trainables.models.catalogue.registry import FAMILIES, find_encoder
from trainables.models.encoders.structure import (
    is_kept,
    structure_of,
)

# Imports inside functions: torch takes seconds to load, and checks do not need it.


def check_targets(config: TrialConfig) -> None:
    """Raises ConfigError if the adapters of a trial cannot be attached or would have no effect.

    Names and ranks are compared with the structure of the encoder, which needs no weights. If the names of a
    family are not known, an encoder with random weights is built, adapted, and checked on random images.
    """
    _refuse_unread_texts(config)
    if "lora" not in config.adapt.method:
        return
    family = FAMILIES[find_encoder(config.encoder).family]
    _Wanted.read(family, config.lora, config.encoder.name)
    if (structure := structure_of(config.encoder)) is not None:
        planned_targets(config, structure)
    if not (family.has_known_names or is_kept(config.encoder)):
        unread = {"rank": 1, "scaling": 1.0, "dropout": 0.1 * (config.lora.dropout > 0)}
        parts: Any = config.encoder, config.adapt, config.lora.model_copy(update=unread)
        _prove_structure(*parts)  # Any: pyright does not know that frozen models are hashable


@cache
def _prove_structure(encoder_config: EncoderConfig, adapt: AdaptConfig, lora: LoraConfig) -> None:
    import torch

    from trainables.models.adapters.liveness import prove_alive
    from trainables.models.adapters.lora import attach
    from trainables.models.encoders.load import load_dual_encoder

    config = TrialConfig(encoder=encoder_config, adapt=adapt, lora=lora)
    encoder = load_dual_encoder(encoder_config, weights=False)
    size = encoder.preprocessing.size
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, size, size), dtype=torch.uint8, generator=random)
    prove_alive(encoder, attach(encoder, config), images, encoder.tokenize(["a clear lung", "an opacity"]))


def _refuse_unread_texts(config: TrialConfig) -> None:
    towers = config.adapt.towers if config.adapt.method == "full" else config.lora.towers
    if config.loss.kind == "cross_entropy" and config.adapt.method in ("full", "lora") and towers == "text":
        where = "adapt.towers" if config.adapt.method == "full" else "lora.towers"
        raise ConfigError(
            f"{where}=text: loss.kind=cross_entropy reads no text, so no weight of the encoder would train; "
            f"set {where} to image"
        )
