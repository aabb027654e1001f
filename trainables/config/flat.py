"""Converts dotted keys, such as `lora.rank` in YAML, Ray, Optuna and MLflow, to nested settings and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from trainables.config.trial import TrialConfig


def to_flat(config: TrialConfig) -> dict[str, Any]:
    """Returns the settings of a trial as dotted key → value, in the order of the fields."""
    return flatten(config.model_dump(mode="json"))


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested mappings with string keys as dotted key → value."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(cast("dict[str, Any]", value)).items()}
        else:
            flat[key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted key → value as nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def from_flat(flat: Mapping[str, Any]) -> TrialConfig:
    """Builds a trial configuration from dotted keys. Missing settings have their defaults.

    Types are strict: "8" and true are not integers.

    Raises:
        pydantic.ValidationError: a key is unknown, or a value is impossible.
    """
    # The values go through JSON, because strict mode accepts paths and tuples only from JSON.
    return TrialConfig.model_validate_json(json.dumps(nest(flat), default=str), strict=True)
