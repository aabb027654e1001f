"""The one list of systems and metrics, and of the keys `<split>/<system>/<metric>` that name their values."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

TITLES = {
    "probe_joint": "probe joint",
    "probe_pooled": "probe pooled",
    "zero_shot_unseen": "zero-shot",
    "zero_shot_class_name": "zero-shot name",
    "zero_shot_template": "zero-shot templates",
    "zero_shot_pair": "zero-shot pairs",
    "zero_shot_training": "zero-shot, training prompts",
    "baseline": "baseline",
    "baseline_from_scratch": "from scratch",
    "control_prior": "label prior",
    "control_thumbnail": "8 × 8 thumbnail",
    "control_border": "image border",
}
"""System → its name on a board, in the order of equal scores. Few-shot systems: see `few_shot_name`."""

_PROBE, _ZERO_SHOT, _FEW_SHOT = "probe_", "zero_shot_", "few_shot_"
PROBES, ZERO_SHOT, BASELINES, CONTROLS = (
    tuple(name for name in TITLES if name.startswith(kind))
    for kind in (_PROBE, _ZERO_SHOT, "baseline", "control_")
)

OBJECTIVE_METRICS = ("macro_auroc", "accuracy", "balanced_accuracy", "macro_f1")  # higher is better
LOWER_IS_BETTER = ("nll", "brier", "ece")
METRICS = (*OBJECTIVE_METRICS, "macro_recall", "macro_precision", *LOWER_IS_BETTER)
PATH_METRICS = ("accuracy", "macro_f1", "macro_auroc", "nll")
"""Metrics that are stored for every strength that a probe tries."""
METRIC_TITLES = {"macro_auroc": "AUROC", "balanced_accuracy": "balanced acc.", "macro_f1": "F1"}

NUM_TRAINABLE, SECONDS = "perf/num_trainable_parameters", "perf/seconds"
ADAPTER_REUSED, WEIGHTS_REUSED, EMBEDDINGS_REUSED = (
    "perf/adapter_reused",
    "perf/weights_reused",
    "perf/embeddings_reused",
)
REUSED = (ADAPTER_REUSED, WEIGHTS_REUSED, EMBEDDINGS_REUSED)
"""1 where a trial took from the store what an earlier trial had made, so that its seconds are too few."""
COSTS = (NUM_TRAINABLE, SECONDS)  # every trial has them; lower is better
DEFAULT_OBJECTIVE = "val/probe_joint/macro_auroc"


def metric_key(split: str, system: str, metric: str) -> str:
    """Returns `val/probe_joint/macro_auroc`."""
    return f"{split}/{system}/{metric}"


def read_key(key: str) -> tuple[str, str, str]:
    """Returns split, system and metric of a key; a part that the key lacks is empty."""
    split, _, rest = key.partition("/")
    system, _, metric = rest.partition("/")
    return split, system, metric


def interval_keys(key: str) -> tuple[str, str]:
    """Returns the keys of the two ends of a metric's 95 % interval."""
    return f"{key}_low", f"{key}_high"


def own_key(key: str, config: Mapping[str, Any]) -> str:
    """Returns the key under which a trial of this config reports the value of a space's key.

    A baseline has one system, which stands for whichever system the space names.
    """
    split, _, metric = read_key(key)
    if config.get("adapt.method") != "baseline" or split not in ("val", "test"):
        return key
    return metric_key(split, baseline_system(bool(config.get("baseline.from_scratch"))), metric)


def range_of(metric: str) -> tuple[float, float]:
    """Returns the smallest and the largest possible value of a metric."""
    return 0.0, {"nll": inf, "brier": 2.0}.get(metric, 1.0)


def title(system: str) -> str:
    """Returns a system's name on a board: `probe joint`, `8-shot pooled`."""
    if is_few_shot(system):
        num_shots, features = split_few_shot(system)
        return f"{num_shots}-shot {features}"
    return TITLES[system]


def metric_title(metric: str) -> str:
    """Returns a metric's name on a board: `AUROC`."""
    return METRIC_TITLES.get(metric, metric)


def baseline_system(from_scratch: bool) -> str:
    """Returns the system of a baseline; pretrained and random weights are never compared as one."""
    return BASELINES[from_scratch]


def probe_name(features: str) -> str:
    """Returns `probe_joint`."""
    return _PROBE + features


def zero_shot_name(family: str) -> str:
    """Returns `zero_shot_unseen`."""
    return _ZERO_SHOT + family


def is_few_shot(system: str) -> bool:
    """Says whether a system learnt from a few labels of each class."""
    return system.startswith(_FEW_SHOT)


def few_shot_name(num_shots: int, features: str) -> str:
    """Returns `few_shot_8_joint`."""
    return f"{_FEW_SHOT}{num_shots}_{features}"


def split_few_shot(system: str) -> tuple[int, str]:
    """Returns the number of shots and the features of a few-shot system."""
    num_shots, _, features = system.removeprefix(_FEW_SHOT).partition("_")
    return int(num_shots), features


def draw_name(system: str, draw: int) -> str:
    """Returns the name of one of several draws of a system: `few_shot_8_joint#3`."""
    return f"{system}#{draw}"


def split_draw(name: str) -> tuple[str, int | None]:
    """Returns the system and the draw of a name; None where the system is not drawn."""
    system, mark, draw = name.partition("#")
    return system, int(draw) if mark else None
