"""Selects the pairs of systems that are compared on test, and computes their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from trainables.scoring.bootstrap import Draws, intervals, p_value, paired_draws
from trainables.scoring.metric_names import BASELINES, HEADLINE, PROBES, ZERO_SHOT
from trainables.scoring.test_predictions import ScoredTrial

COMPARED = ("accuracy", "auroc", "macro_auroc", "macro_ap", "macro_f1", "nll", "error_cut")  # prefixes
MAX_ARMS_ALL_PAIRS = 8  # with more adapted arms, pairs of adapted arms are not compared
MAX_PROBES = 8  # number of the strongest frozen probes with which adapted systems are compared


class System(NamedTuple):
    """An arm and the name of one of its systems. A control needs no encoder, so its arm is None."""

    arm: str | None
    name: str


def frozen_probes(
    draws: Mapping[System, Draws], arms: Mapping[str, ScoredTrial], headline: str = HEADLINE["multiclass"]
) -> list[System]:
    """Returns the probes of frozen encoders, sorted by the metric `headline` on test, the highest first."""
    probes = [system for system in draws if _is_frozen(system, arms) and system.name in PROBES]
    return sorted(probes, key=lambda system: -draws[system][headline][0])


def comparisons(
    systems: Sequence[System], arms: Mapping[str, ScoredTrial], probes: Sequence[System]
) -> Iterator[tuple[System, System]]:
    """Yields the pairs of systems to compare, first minus second. Baselines count as adapted.

    - Each adapted system with the strongest frozen probes and with the same system of its frozen encoder.
    - Each adapted zero-shot system with the probes of its own arm.
    - Adapted systems and frozen probes with the controls.
    - Up to eight adapted arms with each other, and their probes with the baselines.
    """
    controls = [system for system in systems if system.arm is None]
    frozen = [system for system in systems if _is_frozen(system, arms)]
    adapted = [system for system in systems if system.arm is not None and system not in frozen]
    for system in adapted:
        yield from ((system, probe) for probe in probes[:MAX_PROBES])
        yield from ((system, other) for other in frozen if _is_self(system, other, arms))
        if system.name in ZERO_SHOT:
            own = (other for other in adapted if other.arm == system.arm and other.name in PROBES)
            yield from ((system, other) for other in own)
    yield from ((system, control) for system in [*adapted, *probes[:MAX_PROBES]] for control in controls)
    if len({system.arm for system in adapted}) <= MAX_ARMS_ALL_PAIRS:
        yield from ((one, other) for one, other in combinations(adapted, 2) if one.name == other.name)
        classifiers = [system for system in adapted if system.name in BASELINES]
        adapted_probes = [system for system in adapted if system.name in PROBES]
        yield from product(adapted_probes, classifiers)


def _is_frozen(system: System, arms: Mapping[str, ScoredTrial]) -> bool:
    return system.arm is not None and arms[system.arm].is_frozen


def _is_self(adapted: System, frozen: System, arms: Mapping[str, ScoredTrial]) -> bool:
    assert adapted.arm is not None
    assert frozen.arm is not None
    return adapted.name == frozen.name and arms[adapted.arm].encoder == arms[frozen.arm].encoder


def against(first: System, systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Yields each other system paired with `first`, without controls."""
    return ((system, first) for system in systems if system.arm is not None and system != first)


def paired_rows(one: System, other: System, draws: Mapping[System, Draws]) -> list[dict[str, Any]]:
    """Returns the differences of two systems, with one row for each metric in `COMPARED`."""
    names = {"arm_a": one.arm, "system_a": one.name, "arm_b": other.arm, "system_b": other.name}
    differences = paired_draws(draws[one], draws[other])
    compared = {metric: values for metric, values in differences.items() if metric.startswith(COMPARED)}
    return [
        {
            **names,
            "metric": metric,
            "difference": interval.value,
            "low": None if np.isnan(interval.low) else interval.low,
            "high": None if np.isnan(interval.high) else interval.high,
            "p": p_value(compared[metric]),
        }
        for metric, interval in intervals(compared).items()
    ]
