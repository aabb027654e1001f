"""Which systems are held against each other on test, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from trainables.scoring.bootstrap import Draws, intervals, p_value, paired_draws
from trainables.scoring.metric_names import BASELINES, is_probe, is_zero_shot
from trainables.scoring.test_predictions import ScoredTrial

COMPARED = ("accuracy", "auroc", "macro_auroc", "macro_f1", "nll", "error_cut")  # beginnings of metrics
MAX_ARMS_ALL_PAIRS = 8  # beyond, arms are compared with the baselines alone
MAX_PROBES = 8  # of frozen encoders, the strongest: what adapted systems are held against


class System(NamedTuple):
    """One row of a comparison: an arm (None for a control, which needs no encoder) and what speaks for it."""

    arm: str | None
    name: str


def frozen_probes(draws: Mapping[System, Draws], arms: Mapping[str, ScoredTrial]) -> list[System]:
    """Returns the probes of frozen encoders, the highest test accuracy first."""
    probes = [system for system in draws if _is_frozen(system, arms) and is_probe(system.name)]
    return sorted(probes, key=lambda system: -draws[system]["accuracy"][0])


def comparisons(
    systems: Sequence[System], arms: Mapping[str, ScoredTrial], probes: Sequence[System]
) -> Iterator[tuple[System, System]]:
    """Yields which systems to compare: one minus the other.

    Each adapted system with the strongest frozen probes, with its frozen self (the same system of the same
    encoder) and, if it is zero-shot, with the probes of its own arm; adapted systems and frozen probes with
    the controls; up to eight adapted arms with each other. Baselines count as adapted; the probes of the
    others are held against them.

    Args:
        systems: all but few-shot ones, which have intervals and are compared with nothing.
        arms: a trial of each arm.
        probes: see `frozen_probes`.
    """
    controls = [system for system in systems if system.arm is None]
    frozen = [system for system in systems if _is_frozen(system, arms)]
    adapted = [system for system in systems if system.arm is not None and system not in frozen]
    for system in adapted:
        yield from ((system, probe) for probe in probes[:MAX_PROBES])
        yield from ((system, other) for other in frozen if _is_self(system, other, arms))
        if is_zero_shot(system.name):
            own = (other for other in adapted if other.arm == system.arm and is_probe(other.name))
            yield from ((system, other) for other in own)
    yield from ((system, control) for system in [*adapted, *probes[:MAX_PROBES]] for control in controls)
    if len({system.arm for system in adapted}) <= MAX_ARMS_ALL_PAIRS:
        yield from ((one, other) for one, other in combinations(adapted, 2) if one.name == other.name)
        classifiers = [system for system in adapted if system.name in BASELINES]
        adapted_probes = [system for system in adapted if is_probe(system.name)]
        yield from product(adapted_probes, classifiers)


def _is_frozen(system: System, arms: Mapping[str, ScoredTrial]) -> bool:
    return system.arm is not None and arms[system.arm].is_frozen


def _is_self(adapted: System, frozen: System, arms: Mapping[str, ScoredTrial]) -> bool:
    assert adapted.arm is not None
    assert frozen.arm is not None
    return adapted.name == frozen.name and arms[adapted.arm].encoder == arms[frozen.arm].encoder


def against(first: System, systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Yields every other system of an arm beside one of them."""
    return ((system, first) for system in systems if system.arm is not None and system != first)


def paired_rows(one: System, other: System, draws: Mapping[System, Draws]) -> list[dict[str, Any]]:
    """Returns a row per metric in `COMPARED`: one minus the other (an error cut: a share of the other's)."""
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
