"""Dotted keys to nested settings and back: `lora.rank` in YAML, Ray, Optuna and MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from trainables.config.trial import TrialConfig


def to_flat(config: TrialConfig) -> dict[str, Any]:
    """Returns dotted keys → values, in the order of the fields."""
    return flatten(config.model_dump(mode="json"))


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys → values of nested mappings with string keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(cast("dict[str, Any]", value)).items()}
        else:
            flat[key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested mappings of dotted keys → values."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def from_flat(flat: Mapping[str, Any]) -> TrialConfig:
    """Builds a trial from dotted keys; what is not named keeps its default.

    Types are strict: "8" and true are no integers.

    Raises:
        pydantic.ValidationError: an unknown key or an impossible value, with its place.
    """
    # By way of JSON, where strict mode still reads paths and tuples.
    return TrialConfig.model_validate_json(json.dumps(nest(flat), default=str), strict=True)
