"""Which values a trial has at its end, so that a space can rank by them, bound them or minimise one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from trainables.config import PromptFamily, ZeroShotConfig
from trainables.config.fields import did_you_mean
from trainables.errors import ConfigError

BASELINES = ("baseline", "baseline_from_scratch")
DEFAULT_FAMILIES = ZeroShotConfig().prompts
ZERO_SHOT = tuple(f"zero_shot_{family}" for family in get_args(PromptFamily))
SYSTEMS = ("probe_joint", "probe_pooled", *ZERO_SHOT)
OBJECTIVE_METRICS = ("macro_auroc", "accuracy", "balanced_accuracy", "macro_f1")  # higher is better
LOWER_IS_BETTER = ("nll", "brier", "ece")
METRICS = (*OBJECTIVE_METRICS, "macro_recall", "macro_precision", *LOWER_IS_BETTER)
SECONDS = "perf/seconds"
COSTS = ("perf/num_trainable_parameters", SECONDS)  # lower is better; those that every trial has


def own_key(key: str, config: Mapping[str, Any]) -> str:
    """Returns what a key such as `val/probe_joint/ece` is called in a trial.

    A baseline has one system, which stands for whichever one the key names.

    Args:
        key: of a metric, as a space writes it.
        config: the trial's, by dotted keys.
    """
    split, _, rest = key.partition("/")
    if config.get("adapt.method") != "baseline" or split not in ("val", "test"):
        return key
    system = BASELINES[bool(config.get("baseline.from_scratch"))]
    return f"{split}/{system}/{rest.partition('/')[2]}"


def check_measured(
    key: str,
    *,
    where: str,
    features: Sequence[str],
    families: Sequence[str] = DEFAULT_FAMILIES,
    metrics: Collection[str] = METRICS,
    costs: Collection[str] = (),
) -> None:
    """Checks that every trial of a space measures `key` at its end.

    Args:
        key: `val/<system>/<metric>`, or one of `costs`.
        where: stands first in every message.
        features: that the probe is fitted on, `probe.features`.
        families: of prompts that are asked, `zero_shot.prompts`.
        metrics: that are allowed.
        costs: `perf/*` keys that are allowed.

    Raises:
        ConfigError: a key that is not measured, or only on test, with the nearest that is.
    """
    if key in costs:
        return
    split, _, rest = key.partition("/")
    system, _, metric = rest.partition("/")
    if split == "perf" and costs:
        raise ConfigError(f"{where}: '{key}' is none of {', '.join(costs)}{did_you_mean(key, costs)}")
    if split != "val":
        raise ConfigError(
            f"{where}: '{key}' must be measured on val; the test set is opened once, at the end"
        )
    for word, known in ((system, SYSTEMS), (metric, metrics)):
        if word not in known:
            raise ConfigError(f"{where}: '{word}' is none of {', '.join(known)}{did_you_mean(word, known)}")
    if system.startswith("probe_") and system.removeprefix("probe_") not in features:
        raise ConfigError(f"{where}: '{key}' is never measured, as probe.features is {list(features)}")
    if system.startswith("zero_shot_") and system.removeprefix("zero_shot_") not in families:
        raise ConfigError(f"{where}: '{key}' is never measured, as zero_shot.prompts is {list(families)}")
