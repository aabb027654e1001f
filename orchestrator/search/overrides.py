"""Checks the values in a space file: `fixed`, the rows of `baselines` and `arms`, the lists of `repeat`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from trainables.config.fields import FIELDS, check_value, did_you_mean
from trainables.errors import ConfigError
from trainables.training.hardware import device_kind, faster_precision

FROZEN = {"name": "frozen encoder", "adapt.method": "none"}
PATHS = ("data.root", "data.prompts", "data.exclude", "data.adapt_on.root", "data.adapt_on.exclude")
"""Fields with a path. Workers start in another folder, so these paths must be absolute."""
REPEATABLE = ("seed", "data.fold")
"""Fields that can be repeated. Repeats are one arm, as `trainables.config.arm_key` ignores these fields."""


def settle_precision(blocks: dict[str, Any]) -> dict[str, Any]:
    """Replaces `encoder.precision: auto` by the faster precision on this machine, and returns the blocks.

    A sweep that resumes on another machine keeps this precision. Training all weights needs float32. A row
    whose `adapt.method` is `full` gets float32, and so does a space in which `adapt.method` can be `full`.
    """
    fixed, parameters = (_as_mapping(blocks.get(name)) for name in ("fixed", "parameters"))
    if fixed.get("encoder.precision") != "auto":
        return blocks
    is_full = "full" in str([fixed.get("adapt.method"), parameters.get("adapt.method")])
    device = device_kind(str(fixed.get("execution.device", "auto")))
    settled = blocks | {
        "fixed": fixed | {"encoder.precision": "float32" if is_full else faster_precision(device)}
    }
    for name in ("baselines", "arms"):
        if isinstance(blocks.get(name), list):
            settled[name] = [
                {"encoder.precision": "float32", **row}
                if _as_mapping(row).get("adapt.method") == "full"
                else row
                for row in blocks[name]
            ]
    return settled


def _as_mapping(value: Any) -> dict[str, Any]:
    """Returns a mapping unchanged, and {} for other values. The space refuses other values later."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def read_fixed(values: dict[str, Any]) -> dict[str, Any]:
    """Checks values, and makes the paths of data and words absolute, as workers start in another folder."""
    _check_values(values, where="fixed")
    return values | _absolute(values)


def read_rows(rows: list[Any], *, where: str) -> list[dict[str, Any]]:
    """Checks and returns baselines or arms. Each row has a unique name and overrides of `fixed`."""
    names: set[str] = set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(name := cast(dict[str, Any], row).get("name"), str):
            raise ConfigError(
                f"{where}[{position}]: write a mapping with a `name` and overrides, such as {FROZEN}"
            )
        if name in names:
            raise ConfigError(f"{where}[{position}].name: '{name}' is used twice; choose another name")
        names.add(name)
        overrides = {key: value for key, value in cast(dict[str, Any], row).items() if key != "name"}
        _check_values(overrides, where=f"{where}[{position}]")
    return [row | _absolute(row) for row in rows]


def with_frozen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the frozen encoder to the baselines if needed. All gains are relative to the frozen encoder."""
    return rows if any(row.get("adapt.method") == "none" for row in rows) else [FROZEN, *rows]


def read_repeat(lists: dict[str, list[Any]], *, fixed: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Checks and returns lists of seeds or folds."""
    for key, values in lists.items():
        where = f"repeat.{key}"
        if key not in REPEATABLE:
            known = " and ".join(REPEATABLE)
            raise ConfigError(f"{where}: only {known} can be repeated{did_you_mean(key, REPEATABLE)}")
        if key in fixed:
            raise ConfigError(f"{where}: this field is also set under fixed; keep one of them")
        if not values:
            raise ConfigError(f"{where}: must be a list of values")
        for position, value in enumerate(values):
            check_value(key, value, where=f"{where}[{position}]")
    return lists


def _absolute(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the paths among these values, as absolute paths."""
    paths = {key: values[key] for key in PATHS if values.get(key)}
    return {key: str(Path(path).expanduser().absolute()) for key, path in paths.items()}


def _check_values(values: dict[str, Any], *, where: str) -> None:
    for key, value in values.items():
        if key == "encoder.precision" and value == "auto" and where != "fixed":
            raise ConfigError(
                f"{where}.{key}: 'auto' is allowed only in 'fixed', for the whole sweep; write float32 "
                "or bfloat16 instead"
            )
        if isinstance(value, dict) and key not in FIELDS:
            inner = next(iter(cast(dict[str, Any], value)), "rank")
            raise ConfigError(f"{where}.{key}: write dotted names on one level, such as '{key}.{inner}: ...'")
        check_value(key, value, where=f"{where}.{key}")
