"""What an autoscaler may still start: the nodes that it was told of, and that are not there yet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.resources import Machine

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves its settings on the head, as JSON."""
GB_PER_CORE = 2.0
"""Where the settings do not tell a node's memory."""
MOST_OF_A_GROUP = 100
"""Nodes that are counted on, where a group has no limit."""


@dataclass(frozen=True)
class NodeGroup:
    """A kind of node that an autoscaler has told the head of, as KubeRay's does."""

    resources: Mapping[str, float]
    max_count: int  # negative: no limit


def nodes_to_come(
    there: Sequence[Machine], settings: Path = BOOTSTRAP, groups: Sequence[NodeGroup] = ()
) -> tuple[Machine, ...]:
    """Returns the nodes that the autoscaler of this cluster may start for trials that wait, if it has one.

    Args:
        there: nodes that are alive; each takes the place of one of its kind.
        settings: of an autoscaler that `ray up` started, on this head.
        groups: what the head was told; where there are some, `settings` are not read.
    """
    if groups:
        return tuple(_without([m for group in groups for m in _of_group(group)], there))
    try:
        found: dict[str, Any] = json.loads(settings.expanduser().read_text())
        allowed = _allowed(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()  # no autoscaler, or one that is told otherwise
    coming = _without(allowed, there)
    return tuple(coming[: max(0, int(found.get("max_workers", 2)) - (len(allowed) - len(coming)))])


def _without(allowed: Sequence[Machine], there: Sequence[Machine]) -> list[Machine]:
    """Returns the nodes that may run and do not."""
    alive = Counter((machine.num_cpus, machine.num_gpus) for machine in there)
    coming: list[Machine] = []
    for machine in allowed:
        kind = machine.num_cpus, machine.num_gpus
        if alive[kind] > 0:
            alive[kind] -= 1
        else:
            coming.append(machine)
    return coming


def _of_group(group: NodeGroup) -> list[Machine]:
    cpus, gpus = int(group.resources.get("CPU", 0)), int(group.resources.get("GPU", 0))
    memory_gb = group.resources.get("memory", GB_PER_CORE * cpus * 2**30) / 2**30
    number = MOST_OF_A_GROUP if group.max_count < 0 else min(group.max_count, MOST_OF_A_GROUP)
    return [Machine(cpus, gpus, memory_gb)] * number if cpus else []


def _allowed(settings: dict[str, Any]) -> list[Machine]:
    """Returns every worker that may run at once by its own type, those with GPUs first."""
    machines: list[Machine] = []
    kinds: dict[str, dict[str, Any]] = settings["available_node_types"]
    for name, kind in kinds.items():
        has: dict[str, float] = kind.get("resources") or {}
        cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if name == settings["head_node_type"] or cpus == 0:
            continue
        memory_gb = has["memory"] / 2**30 if "memory" in has else GB_PER_CORE * cpus
        machines += [Machine(cpus, gpus, memory_gb)] * int(kind.get("max_workers", 0))
    return sorted(machines, key=lambda machine: -machine.num_gpus)
