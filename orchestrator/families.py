"""What a search space may leave to the encoder's family: presets of target modules, learning rates."""

from __future__ import annotations

from typing import Any, cast

from orchestrator.parameters import FAMILY, Choice, Parameter, Range
from trainables.config import EncoderConfig
from trainables.errors import ConfigError
from trainables.fields import DEFAULTS
from trainables.models.encoder_spec import Family, TowerName
from trainables.models.registry import FAMILIES, find_encoder


def encoder_families(fixed: dict[str, Any], parameters: dict[str, Parameter]) -> list[Family]:
    """Returns the families of all encoders that a space can draw, each once.

    Raises:
        ConfigError: an encoder that does not exist.
    """
    parameter = parameters.get("encoder.name")
    names = parameter.corners() if parameter else (fixed.get("encoder.name", DEFAULTS["encoder.name"]),)
    found = dict.fromkeys(find_encoder(EncoderConfig.model_validate({"name": name})).family for name in names)
    return [FAMILIES[family] for family in found]


def family_words(entry: Any, fixed: dict[str, Any], parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """Returns what `family` stands for: the presets that every adapted tower knows, the learning rates."""
    if not isinstance(entry, dict) or FAMILY not in cast(dict[str, Any], entry).values():
        return {}
    families = encoder_families(fixed, parameters)
    if len(families) != 1:
        names = [name for name, family in FAMILIES.items() if family in families]
        raise ConfigError(
            f"parameters: `family` needs one encoder family, encoder.name varies over {', '.join(names)}"
        )
    family = families[0]
    towers = [
        family.tower(name)
        for name in _adapted_towers(cast(dict[str, Any], entry).get("when"), fixed, parameters)
    ]
    presets = [preset for preset in towers[0].presets if all(preset in tower.presets for tower in towers)]
    low, high = family.learning_rate_range
    return {"lora.target_modules": Choice(tuple(presets)), "optim.learning_rate": Range(low, high, log=True)}


def _adapted_towers(when: Any, fixed: dict[str, Any], parameters: dict[str, Parameter]) -> list[TowerName]:
    key = "lora.towers"
    if isinstance(when, dict) and key in when:
        drawn: Any = cast(dict[str, Any], when)[key]
        values = cast(list[Any], drawn if isinstance(drawn, list) else [drawn])
    else:
        values = list(parameters[key].corners()) if key in parameters else [fixed.get(key, DEFAULTS[key])]
    towers: list[TowerName] = ["image", "text"]
    return [tower for tower in towers if any(value in (tower, "both") for value in values)]
