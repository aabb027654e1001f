"""The parameters of a search space: the values of a field, and the condition under which they vary."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from trainables.config import EncoderConfig
from trainables.config.fields import DEFAULTS, check_field, check_value, nearest_or_all
from trainables.errors import ConfigError
from trainables.models.catalogue.registry import FAMILIES, find_encoder
from trainables.models.encoder_spec import Family, TowerName

Scalar: TypeAlias = str | int | float | bool | None
Condition: TypeAlias = dict[str, tuple[Scalar, ...]]  # field → values for which the parameter is active


@dataclass(frozen=True)
class Choice:
    """A list of values to choose from. Their order has no meaning."""

    values: tuple[Scalar, ...]
    when: Condition = field(default_factory=dict[str, tuple[Scalar, ...]])

    def corners(self) -> tuple[Scalar, ...]:
        """Returns the values to check, which are all values."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Says whether the parameter can take this value. The number 1 is not `true`."""
        return any(value == own and type(value) is type(own) for own in self.values)

    def draw(self, random_numbers: random.Random) -> Scalar:
        """Returns a random value. All values are equally likely."""
        return random_numbers.choice(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameter in the form of a search-space file."""
        return {"choice": list(self.values), **_when_to_dict(self.when)}

    def __str__(self) -> str:
        """Returns text such as `4, 8 where adapt.method is lora`."""
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values) + _where(
            self.when
        )


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included. With `log`, draws are uniform on a log scale."""

    low: float
    high: float
    log: bool = False
    is_integer: bool = False
    when: Condition = field(default_factory=dict[str, tuple[Scalar, ...]])

    def corners(self) -> tuple[float, ...]:
        """Returns the values to check, which are both ends."""
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Says whether the parameter can take this value."""
        kinds = (int,) if self.is_integer else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    def middle(self) -> float:
        """Returns the median of random draws."""
        value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(value) if self.is_integer else value

    def draw(self, random_numbers: random.Random) -> float:
        """Returns a random value of the range."""
        low, high = self.low, self.high + self.is_integer
        if self.log:
            value = math.exp(random_numbers.uniform(math.log(low), math.log(high)))
        else:
            value = random_numbers.uniform(low, high)
        return min(math.floor(value), int(self.high)) if self.is_integer else min(max(value, low), high)

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameter in the form of a search-space file."""
        return {
            "int" if self.is_integer else "float": [self.low, self.high],
            "log": self.log,
            **_when_to_dict(self.when),
        }

    def __str__(self) -> str:
        """Returns text such as `1e-05 to 0.002 (log)`."""
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}{_where(self.when)}"


Parameter: TypeAlias = Choice | Range

KINDS = ("choice", "float", "int")
KEYS = (*KINDS, "log", "when")
FAMILY = "family"
"""This word in a file stands for the values that the encoder's family recommends."""
SEARCHABLE_DATA = (
    *("data.augmentation", "data.num_views", "data.captions"),
    *("data.report_sections", "data.report_sentences", "data.drop_comparisons"),
)
"""Fields of `data` that change neither the images nor the labels."""


def read_parameters(
    entries: Mapping[str, Any], *, fixed: Mapping[str, Any], changed: Collection[str] = ()
) -> dict[str, Parameter]:
    """Reads the parameters of a space from top to bottom. Conditions may name only fields further up.

    Args:
        entries: for each field, the choice or range in the form of the file.
        fixed: values of the fields that all trials share.
        changed: fields that `--set` fixed. Parameters that these fields make inactive are dropped.
    """
    parameters: dict[str, Parameter] = {}
    for key, entry in entries.items():
        where = f"parameters.{key}"
        if key in fixed:
            raise ConfigError(f"{where}: this field is also set under fixed; keep one of them")
        _check_searchable(key, where=where)
        parameter = _read_parameter(key, entry, fixed, parameters, where=where)
        for other in parameter.when:
            if other == key or (other in entries and other not in parameters):
                raise ConfigError(f"{where}.when.{other}: must be listed above '{key}' under parameters")
        impossible = [other for other in parameter.when if not _can_hold(parameter, other, fixed, parameters)]
        if not impossible:
            parameters[key] = parameter
        elif not any(other in changed for other in impossible):
            allowed = list(parameter.when[impossible[0]])
            raise ConfigError(
                f"{where}.when.{impossible[0]}: this field is never one of {allowed}, "
                f"so '{key}' would never vary"
            )
    return parameters


def _check_searchable(key: str, *, where: str) -> None:
    check_field(key, where=where)
    why = ""
    if key.startswith("execution."):
        why = "execution settings never change a result; set the field under fixed"
    elif key == "seed":
        why = (
            "a seed must not be chosen by its score; to run the best arms on several seeds, set "
            "search.seeds, such as `search: {seeds: 3}`"
        )
    elif key in ("data.fold", "data.seed"):
        why = "a split must not be chosen by its score; compare arms over `repeat: {data.fold: [...]}`"
    elif key.startswith("data.") and key not in SEARCHABLE_DATA:
        why = "scores on different data cannot be compared; run one sweep for each value"
    if why:
        raise ConfigError(f"{where}: {why}")


def _can_hold(
    parameter: Parameter, other: str, fixed: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> bool:
    allowed = parameter.when[other]
    if other not in parameters:
        return fixed.get(other, DEFAULTS[other]) in allowed
    return any(parameters[other].contains(value) for value in allowed)


def _read_parameter(
    key: str, entry: Any, fixed: Mapping[str, Any], above: Mapping[str, Parameter], *, where: str
) -> Parameter:
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{where}: write one of {{choice: [...]}}, {{float: [low, high]}}, {{int: [low, high]}}"
        )
    lines = cast(dict[str, Any], entry)
    for word in lines:
        if word not in KEYS:
            raise ConfigError(f"{where}.{word}: no such key{nearest_or_all(word, KEYS)}")
    kinds = [kind for kind in KINDS if kind in lines]
    if len(kinds) != 1:
        raise ConfigError(
            f"{where}: write exactly one of {', '.join(KINDS)}; given: {', '.join(kinds) or 'none'}"
        )
    kind, log = kinds[0], lines.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log: must be true or false")
    if kind == "choice" and "log" in lines:
        raise ConfigError(f"{where}: `log` belongs to a range, not to a choice")
    when = _read_condition(lines.get("when", {}), where=f"{where}.when")
    given, where = lines[kind], f"{where}.{kind}"
    if given == FAMILY:
        return _of_family(key, kind, when, fixed, above, where=where)
    if not isinstance(given, list):
        example = "[a, b]" if kind == "choice" else "[low, high]"
        raise ConfigError(f"{where}: must be a list, such as {example}")
    values = tuple(cast(list[Any], given))
    for position, value in enumerate(values):
        if isinstance(value, list | dict):
            raise ConfigError(f"{where}[{position}]: must be a single value")
        # Whole numbers in a `float` range are checked as floats, because the range draws floats.
        is_drawn_as_float = kind == "float" and isinstance(value, int)
        check_value(key, float(value) if is_drawn_as_float else value, where=f"{where}[{position}]")
    if kind == "choice":
        return _choice(values, when, where=where)
    return _range(values, kind, log, when, where=where)


def _choice(values: tuple[Any, ...], when: Condition, *, where: str) -> Choice:
    if not values:
        raise ConfigError(f"{where}: the list is empty; add values to choose from")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"{where}: {list(values)} lists a value twice")
    return Choice(values, when)


def _range(values: tuple[Any, ...], kind: str, log: bool, when: Condition, *, where: str) -> Range:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2:
        raise ConfigError(f"{where}: {list(values)} must be two numbers, [low, high]")
    low, high = numbers
    if low >= high:
        raise ConfigError(f"{where}: low {low:g} is not below high {high:g}; swap the two numbers")
    if log and low <= 0:
        raise ConfigError(f"{where}: low {low:g} must be above 0 on a log scale")
    if kind == "int" and not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{where}: [{low:g}, {high:g}] must be whole numbers")
    return Range(low, high, log, kind == "int", when)


def _read_condition(given: Any, *, where: str) -> Condition:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: must be a mapping, such as {{adapt.method: [lora, lora+projection]}}")
    condition: Condition = {}
    for key, value in cast(dict[str, Any], given).items():
        condition[key] = tuple(cast(list[Any], value)) if isinstance(value, list) else (value,)
        for one in condition[key]:
            check_value(key, one, where=f"{where}.{key}")
    return condition


def _of_family(
    key: str,
    kind: str,
    when: Condition,
    fixed: Mapping[str, Any],
    above: Mapping[str, Parameter],
    *,
    where: str,
) -> Parameter:
    """Returns the values for `family`: presets that all adapted towers share, or learning rates."""
    families = encoder_families(fixed, above)
    if len(families) != 1:
        names = [name for name, family in FAMILIES.items() if family in families]
        raise ConfigError(
            f"{where}: `family` needs one encoder family, but encoder.name varies over {', '.join(names)}"
        )
    if (key, kind) == ("optim.learning_rate", "float"):
        return Range(*families[0].learning_rate_range, log=True, when=when)
    if (key, kind) == ("lora.target_modules", "choice"):
        towers = [families[0].tower(name) for name in _adapted_towers(when, fixed, above)]
        shared = [preset for preset in towers[0].presets if all(preset in t.presets for t in towers)]
        return Choice(tuple(shared), when)
    raise ConfigError(
        f"{where}: family stands for lora.target_modules (choice) and optim.learning_rate (float) only"
    )


def _adapted_towers(
    when: Condition, fixed: Mapping[str, Any], above: Mapping[str, Parameter]
) -> list[TowerName]:
    key = "lora.towers"
    drawn = above[key].corners() if key in above else (fixed.get(key, DEFAULTS[key]),)
    values = when.get(key, drawn)
    towers: tuple[TowerName, ...] = ("image", "text")
    return [tower for tower in towers if tower in values or "both" in values]


def _where(when: Condition) -> str:
    parts = (f"{key} is {' or '.join(map(str, values))}" for key, values in when.items())
    return f" where {', '.join(parts)}" if when else ""


def _when_to_dict(when: Condition) -> dict[str, Any]:
    return {"when": {key: list(values) for key, values in when.items()}} if when else {}


def encoder_families(fixed: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> list[Family]:
    """Returns the distinct families of the encoders that a space can draw."""
    parameter = parameters.get("encoder.name")
    names = parameter.corners() if parameter else (fixed.get("encoder.name", DEFAULTS["encoder.name"]),)
    found = dict.fromkeys(find_encoder(EncoderConfig.model_validate({"name": name})).family for name in names)
    return [FAMILIES[family] for family in found]
