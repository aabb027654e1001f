"""The fields of a trial by dotted name, checks of their values, and the error messages."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trainables.config.flat import from_flat, to_flat
from trainables.config.trial import TrialConfig
from trainables.errors import ConfigError
from trainables.plain_yaml import parse_yaml


def _walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _walk(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


FIELDS: dict[str, FieldInfo] = dict(_walk(TrialConfig))
DEFAULTS: dict[str, Any] = to_flat(from_flat({}))


def check_field(key: str, *, where: str) -> None:
    """Raises ConfigError if `key` is not a field of a trial. The message suggests the nearest name."""
    if key not in FIELDS:
        raise ConfigError(f"{where}: no such field{did_you_mean(key, FIELDS) or _known(key)}")


def check_value(key: str, value: Any, *, where: str) -> None:
    """Raises ConfigError if the value is invalid for the field. Other fields are not considered."""
    check_field(key, where=where)
    try:
        from_flat({key: value})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            if ".".join(str(part) for part in problem["loc"]).startswith(key):
                raise ConfigError(f"{where}: {_words(problem)}") from error


def build_trial(flat: dict[str, Any], *, where: str) -> TrialConfig:
    """Builds a trial configuration from dotted keys. Raises ConfigError for an invalid one."""
    for key in flat:
        check_field(key, where=f"{where}.{key}")
    try:
        return from_flat(flat)
    except ValidationError as error:
        raise ConfigError(explain(error, where=where)) from error


def read_overrides(texts: Sequence[str], *, also: Collection[str] = ()) -> dict[str, Any]:
    """Returns the values of `--set key=value`, parsed as YAML. If a key occurs twice, the last value counts.

    `also` has more keys that are allowed, besides the fields of a trial. Their values are not checked.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write key=value, such as --set lora.rank=8")
        if key not in FIELDS and key not in also:
            known = did_you_mean(key, [*FIELDS, *also]) or _known(key)
            raise ConfigError(f"--set {key}: no such field{known}")
        values[key] = parse_yaml(value, where=f"--set {key}")
        if key in FIELDS:
            check_value(key, values[key], where=f"--set {key}")
    return values


def explain(error: ValidationError, *, where: str = "") -> str:
    """Returns the first problem of a validation error as a message of one line."""
    problem = error.errors(include_url=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    place = "".join([where, *parts]).removeprefix(".")
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such key"
    return f"{place}: {_words(problem)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'lora.rank'?` for a similar name or `rank`; empty if no name is similar."""
    names = list(known)
    by_last_part = {candidate.rpartition(".")[2]: candidate for candidate in reversed(names)}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    near = near or [
        by_last_part[last] for last in difflib.get_close_matches(name, by_last_part, n=1, cutoff=0.7)
    ]
    return f"; did you mean '{near[0]}'?" if near else ""


def nearest_or_all(name: str, known: Collection[str]) -> str:
    """Returns the hint of `did_you_mean`, or a list of all names if no name is similar."""
    return did_you_mean(name, known) or f" (known: {', '.join(known)})"


def _known(key: str) -> str:
    block = key.partition(".")[0]
    siblings = [field for field in FIELDS if field.startswith(f"{block}.")]
    known = siblings or list(dict.fromkeys(field.partition(".")[0] for field in FIELDS))
    return f" (known: {', '.join(known)})"


_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


def _takes_null(loc: tuple[int | str, ...]) -> bool:
    info = FIELDS.get(".".join(str(part) for part in loc))
    return info is not None and NoneType in get_args(info.annotation)


def _words(problem: Any) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":  # a message of our own models
        return str(context["error"])
    shown = json.dumps(value, default=str)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    if kind in _TYPES:
        return f"{shown} {_TYPES[kind]}{' or null' if _takes_null(problem['loc']) else ''}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{shown} must be {words} {context[name]:g}"
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in context["expected"].replace(" or ", ",").split(",")]
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"{shown} must be one of {', '.join(choices)}{hint}"
    return f"{shown}: {problem['msg'].removeprefix('Input ')}"
