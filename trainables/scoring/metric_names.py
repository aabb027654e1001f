"""The names of all systems and metrics, and the keys `<split>/<system>/<metric>` of their values."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from trainables.config import Task

TITLES = {
    "probe_joint": "probe joint",
    "probe_pooled": "probe pooled",
    "zero_shot_unseen": "zero-shot",
    "zero_shot_class_name": "zero-shot name",
    "zero_shot_template": "zero-shot templates",
    "zero_shot_pair": "zero-shot pairs",
    "zero_shot_published": "zero-shot, published prompts",
    "zero_shot_training": "zero-shot, training prompts",
    "baseline": "baseline",
    "baseline_from_scratch": "from scratch",
    "control_prior": "label prior",
    "control_thumbnail": "8 × 8 thumbnail",
    "control_border": "image border",
    "control_attributes": "view, sex, age",
}
"""System → its name on a leaderboard. The order breaks ties. For few-shot systems see `few_shot_name`."""

_PROBE, _ZERO_SHOT, _FEW_SHOT = "probe_", "zero_shot_", "few_shot_"
PROBES, ZERO_SHOT, BASELINES, CONTROLS = (
    tuple(name for name in TITLES if name.startswith(kind))
    for kind in (_PROBE, _ZERO_SHOT, "baseline", "control_")
)

OBJECTIVE_METRICS = ("macro_auroc", "accuracy", "balanced_accuracy", "macro_f1", "macro_ap")
"""The metrics that can rank trials. Higher is better."""
LOWER_IS_BETTER = ("nll", "brier", "ece")
_MAX_BRIER: Mapping[Task, float] = {"multiclass": 2.0, "multilabel": 1.0}
METRICS = (*OBJECTIVE_METRICS, "macro_recall", "macro_precision", *LOWER_IS_BETTER)
METRICS_OF: Mapping[Task, tuple[str, ...]] = {
    "multiclass": tuple(name for name in METRICS if name != "macro_ap"),
    "multilabel": ("macro_auroc", "macro_ap", *LOWER_IS_BETTER),
}
"""The metrics of each task. Those of a multi-label task are averages over its findings."""
FINDING_METRICS = ("auroc", "average_precision", "brier", "ece")
"""The metrics of each finding in the table of findings."""
HEADLINE: Mapping[Task, str] = {"multiclass": "accuracy", "multilabel": "macro_auroc"}
"""The metric of the differences on test, by which the strongest frozen probe is chosen."""
PATH_METRICS: Mapping[Task, tuple[str, ...]] = {
    "multiclass": ("accuracy", "macro_f1", "macro_auroc", "nll"),
    "multilabel": ("macro_auroc", "macro_ap", "nll"),
}
"""The metrics that are stored for each strength that a probe tries."""
METRIC_TITLES = {
    "macro_auroc": "AUROC",
    "macro_ap": "mean AP",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "F1",
    "auroc": "AUROC",  # of one finding, as the next one
    "average_precision": "AP",
}

IMAGE_TO_REPORT, REPORT_TO_IMAGE = "image_to_report", "report_to_image"
"""The systems of retrieval. They have no rows on a leaderboard: their metrics are recalls."""
NUM_REPORTS, CUT_REPORTS = "val/reports/num_texts", "val/reports/cut_fraction"
CUT_CAPTIONS = "train/captions/cut_fraction"
"""Fractions of the texts that are longer than the text encoder reads, and the number of texts searched."""

NUM_TRAINABLE, SECONDS = "perf/num_trainable_parameters", "perf/seconds"
ADAPTER_REUSED, WEIGHTS_REUSED, EMBEDDINGS_REUSED = (
    "perf/adapter_reused",
    "perf/weights_reused",
    "perf/embeddings_reused",
)
REUSED = (ADAPTER_REUSED, WEIGHTS_REUSED, EMBEDDINGS_REUSED)
"""Metrics that are 1 if a trial reused something from the store. The trial's seconds are then too low."""
COSTS = (NUM_TRAINABLE, SECONDS)  # every trial reports these costs; lower is better
DEFAULT_OBJECTIVE = "val/probe_joint/macro_auroc"


def metric_key(split: str, system: str, metric: str) -> str:
    """Returns the key of a metric, such as `val/probe_joint/macro_auroc`."""
    return f"{split}/{system}/{metric}"


def read_key(key: str) -> tuple[str, str, str]:
    """Returns the split, system and metric of a key. A missing part is an empty text."""
    split, _, rest = key.partition("/")
    system, _, metric = rest.partition("/")
    return split, system, metric


def interval_keys(key: str) -> tuple[str, str]:
    """Returns the keys of the two bounds of a metric's 95 % interval."""
    return f"{key}_low", f"{key}_high"


def own_key(key: str, config: Mapping[str, Any]) -> str:
    """Returns the metric key of a trial, with this configuration, for a key of the search space.

    A baseline has only one system, which replaces the system in the key.
    """
    split, _, metric = read_key(key)
    if config.get("adapt.method") != "baseline" or split not in ("val", "test"):
        return key
    return metric_key(split, baseline_system(bool(config.get("baseline.from_scratch"))), metric)


def range_of(metric: str, task: Task = "multiclass") -> tuple[float, float]:
    """Returns the smallest and largest possible value of a metric."""
    return 0.0, {"nll": inf, "brier": _MAX_BRIER[task]}.get(metric, 1.0)


def title(system: str) -> str:
    """Returns a system's name on a leaderboard, such as `probe joint` or `8-shot pooled`."""
    if is_few_shot(system):
        num_shots, features = split_few_shot(system)
        return f"{num_shots}-shot {features}"
    return TITLES[system]


def error_cut_name(metric: str) -> str:
    """Returns the name of the error cut of accuracy (`error_cut`) or an AUROC (`error_cut_macro_auroc`)."""
    return "error_cut" if metric == "accuracy" else f"error_cut_{metric}"


def metric_title(metric: str) -> str:
    """Returns a metric's name on a leaderboard, such as `AUROC`."""
    return METRIC_TITLES.get(metric, metric)


def baseline_system(from_scratch: bool) -> str:
    """Returns the system name of a baseline. Pretrained and random starting weights have different names."""
    return BASELINES[from_scratch]


def probe_name(features: str) -> str:
    """Returns the system name of a probe, such as `probe_joint`."""
    return _PROBE + features


def zero_shot_name(family: str) -> str:
    """Returns the system name of a family of prompts, such as `zero_shot_unseen`."""
    return _ZERO_SHOT + family


def is_few_shot(system: str) -> bool:
    """Returns whether a system learned from a few labels per class."""
    return system.startswith(_FEW_SHOT)


def few_shot_name(num_shots: int, features: str) -> str:
    """Returns the system name of a few-shot probe, such as `few_shot_8_joint`."""
    return f"{_FEW_SHOT}{num_shots}_{features}"


def split_few_shot(system: str) -> tuple[int, str]:
    """Returns the number of shots and the features of a few-shot system."""
    num_shots, _, features = system.removeprefix(_FEW_SHOT).partition("_")
    return int(num_shots), features


def draw_name(system: str, draw: int) -> str:
    """Returns the name of one draw of a system, such as `few_shot_8_joint#3`."""
    return f"{system}#{draw}"


def split_draw(name: str) -> tuple[str, int | None]:
    """Returns the system and the draw of a name. The draw is None if the system has no draws."""
    system, mark, draw = name.partition("#")
    return system, int(draw) if mark else None
