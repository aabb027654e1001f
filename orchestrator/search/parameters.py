"""What a search space varies: a choice or a range per field, and the condition under which it counts."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from trainables.config import EncoderConfig
from trainables.config.fields import DEFAULTS, check_field, check_value, did_you_mean
from trainables.errors import ConfigError
from trainables.models.catalogue.registry import FAMILIES, find_encoder
from trainables.models.encoder_spec import Family, TowerName

Scalar: TypeAlias = str | int | float | bool | None
Condition: TypeAlias = dict[str, tuple[Scalar, ...]]  # field → the values under which the parameter counts


@dataclass(frozen=True)
class Choice:
    """One of some values; the order means nothing to a searcher."""

    values: tuple[Scalar, ...]
    when: Condition = field(default_factory=dict[str, tuple[Scalar, ...]])

    def corners(self) -> tuple[Scalar, ...]:
        """Returns the values that stand for all."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Says whether the parameter can take this value; 1 is not true."""
        return any(value == own and type(value) is type(own) for own in self.values)

    def draw(self, random_numbers: random.Random) -> Scalar:
        """Returns a value, each equally likely."""
        return random_numbers.choice(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameter as a search-space file writes it."""
        return {"choice": list(self.values), **_when_to_dict(self.when)}


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; `log`: equally likely per factor, not per difference."""

    low: float
    high: float
    log: bool = False
    is_integer: bool = False
    when: Condition = field(default_factory=dict[str, tuple[Scalar, ...]])

    def corners(self) -> tuple[float, ...]:
        """Returns both ends."""
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Says whether the parameter can take this value."""
        kinds = (int,) if self.is_integer else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    def middle(self) -> float:
        """Returns the value that cuts the range in two equally likely parts."""
        value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(value) if self.is_integer else value

    def draw(self, random_numbers: random.Random) -> float:
        """Returns a value of the range."""
        low, high = (self.low, self.high + 1) if self.is_integer else (self.low, self.high)
        value = (
            math.exp(random_numbers.uniform(math.log(low), math.log(high)))
            if self.log
            else random_numbers.uniform(low, high)
        )
        return min(math.floor(value), int(self.high)) if self.is_integer else min(max(value, low), high)

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameter as a search-space file writes it."""
        return {
            "int" if self.is_integer else "float": [self.low, self.high],
            "log": self.log,
            **_when_to_dict(self.when),
        }


Parameter: TypeAlias = Choice | Range

KINDS = ("choice", "float", "int")
FAMILY = "family"


def read_parameter(key: str, entry: Any, *, family: Mapping[str, Parameter], where: str) -> Parameter:
    """Returns the parameter that one line of `parameters:` describes.

    Args:
        key: the field.
        entry: what the file says of it: one of `choice`, `float`, `int`; perhaps `log` and `when`.
        family: what the word `family` stands for, by field.
        where: stands first in every message.

    Raises:
        ConfigError: an unknown key, an empty choice or range, a value outside the field's bounds.
    """
    check_field(key, where=where)
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{where}: write one of {{choice: [...]}}, {{float: [low, high]}}, {{int: [low, high]}}"
        )
    lines = cast(dict[str, Any], entry)
    for word in lines:
        if word not in (*KINDS, "log", "when"):
            raise ConfigError(f"{where}.{word}: no such key{did_you_mean(word, [*KINDS, 'log', 'when'])}")
    kinds = [kind for kind in KINDS if kind in lines]
    if len(kinds) != 1:
        raise ConfigError(
            f"{where}: exactly one of choice, float and int is needed, {' and '.join(kinds) or 'none'} given"
        )
    kind, log = kinds[0], lines.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log: must be true or false")
    when = _read_condition(lines.get("when", {}), where=f"{where}.when")
    given, where = lines[kind], f"{where}.{kind}"
    if kind == "choice" and "log" in lines:
        raise ConfigError(f"{where}: `log` belongs to a range, not to a choice")
    if given == FAMILY:
        return _of_family(key, kind, when, family, where=where)
    if not isinstance(given, list):
        raise ConfigError(
            f"{where}: must be a list, such as {'[a, b]' if kind == 'choice' else '[low, high]'}"
        )
    values = tuple(cast(list[Any], given))
    for position, value in enumerate(values):
        if isinstance(value, list | dict):
            raise ConfigError(f"{where}[{position}]: must be a single value")
        is_drawn_as_float = kind == "float" and isinstance(
            value, int
        )  # so `float` on a whole-number field is refused
        check_value(key, float(value) if is_drawn_as_float else value, where=f"{where}[{position}]")
    return (
        _choice(values, when, where=where)
        if kind == "choice"
        else _range(values, kind, log, when, where=where)
    )


def _choice(values: tuple[Any, ...], when: Condition, *, where: str) -> Choice:
    if not values:
        raise ConfigError(f"{where}: empty, so there is nothing to choose from")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"{where}: a value stands twice in {list(values)}")
    return Choice(values, when)


def _range(values: tuple[Any, ...], kind: str, log: bool, when: Condition, *, where: str) -> Range:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2:
        raise ConfigError(f"{where}: {list(values)} must be two numbers, [low, high]")
    low, high = numbers
    if low >= high:
        raise ConfigError(f"{where}: low {low:g} is not below high {high:g}; swap them, or fix the value")
    if log and low <= 0:
        raise ConfigError(f"{where}: low {low:g} must be above 0 on a log scale")
    if kind == "int" and not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{where}: [{low:g}, {high:g}] must be whole numbers")
    return Range(low, high, log, kind == "int", when)


def _of_family(
    key: str, kind: str, when: Condition, family: Mapping[str, Parameter], *, where: str
) -> Parameter:
    meant = family.get(key)
    if meant is None or (kind == "choice") is not isinstance(meant, Choice):
        raise ConfigError(
            f"{where}: family stands for lora.target_modules (choice) and optim.learning_rate (float) only"
        )
    if isinstance(meant, Choice):
        return Choice(meant.values, when)
    return Range(meant.low, meant.high, meant.log, meant.is_integer, when)


def _read_condition(given: Any, *, where: str) -> Condition:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: must be a mapping, such as {{adapt.method: [lora, lora+projection]}}")
    condition: Condition = {}
    for key, value in cast(dict[str, Any], given).items():
        allowed = tuple(cast(list[Any], value)) if isinstance(value, list) else (value,)
        for one in allowed:
            check_value(key, one, where=f"{where}.{key}")
        condition[key] = allowed
    return condition


def _when_to_dict(when: Condition) -> dict[str, Any]:
    return {"when": {key: list(values) for key, values in when.items()}} if when else {}


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
