"""Encoders that are known and not yet built."""

from __future__ import annotations

from pathlib import Path

from trainables.config import EncoderConfig
from trainables.errors import WeightsUnavailable
from trainables.models.dual_encoder import DualEncoder
from trainables.models.encoder_spec import EncoderSpec


def load_pending(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool, store: Path | None
) -> DualEncoder:
    """Raises WeightsUnavailable: no adapter is written for this family."""
    del weights, store
    raise WeightsUnavailable(f"{config.name}: no adapter for the family '{spec.family}' is written yet")
