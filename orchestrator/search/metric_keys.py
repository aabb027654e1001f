"""Checks that every trial of a space measures the metrics that the space names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError
from trainables.scoring.metric_names import METRICS, PROBES, ZERO_SHOT, probe_name, read_key, zero_shot_name

SYSTEMS = (*PROBES, *ZERO_SHOT)
"""The systems that a space may name."""


def check_measured(
    key: str,
    *,
    where: str,
    features: Sequence[str],
    families: Sequence[str],
    metrics: Collection[str] = METRICS,
    costs: Collection[str] = (),
) -> None:
    """Checks that every trial of a space measures `key`: `val/<system>/<metric>`, or one of `costs`.

    Every message starts with `where`. `features` and `families` are the space's `probe.features` and
    `zero_shot.prompts`. `metrics` and `costs` are the names that are allowed.

    Raises:
        ConfigError: no trial measures the key on val. The message suggests the nearest key that is measured.
    """
    if key in costs:
        return
    split, system, metric = read_key(key)
    if split == "perf" and costs:
        raise ConfigError(f"{where}: '{key}' is none of {', '.join(costs)}{did_you_mean(key, costs)}")
    if split != "val":
        raise ConfigError(f"{where}: '{key}' must be measured on val; test labels are used only at the end")
    for word, known in ((system, SYSTEMS), (metric, metrics)):
        if word not in known:
            raise ConfigError(f"{where}: '{word}' is none of {', '.join(known)}{did_you_mean(word, known)}")
    for setting, values, name_of, kind in (
        ("probe.features", features, probe_name, PROBES),
        ("zero_shot.prompts", families, zero_shot_name, ZERO_SHOT),
    ):
        if system in kind and system not in map(name_of, values):
            raise ConfigError(f"{where}: '{key}' is never measured, because {setting} is {list(values)}")
