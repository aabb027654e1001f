"""What an autoscaler may still start: the nodes that `ray up` was told of, and that are not there yet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.resources import Machine

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves its settings on the head, as JSON."""
GB_PER_CORE = 2.0
"""Where the settings do not tell a node's memory."""


def nodes_to_come(there: Sequence[Machine], settings: Path = BOOTSTRAP) -> tuple[Machine, ...]:
    """Returns the nodes that the autoscaler of this head may start for trials that wait, if it has one.

    Args:
        there: nodes that are alive; each takes the place of one of its kind.
        settings: of the autoscaler.
    """
    try:
        found: dict[str, Any] = json.loads(settings.expanduser().read_text())
        allowed = _allowed(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()  # no autoscaler, or one that is told otherwise
    alive = Counter((machine.num_cpus, machine.num_gpus) for machine in there)
    coming: list[Machine] = []
    for machine in allowed:
        kind = machine.num_cpus, machine.num_gpus
        if alive[kind] > 0:
            alive[kind] -= 1
        else:
            coming.append(machine)
    return tuple(coming[: max(0, int(found.get("max_workers", 2)) - (len(allowed) - len(coming)))])


def _allowed(settings: dict[str, Any]) -> list[Machine]:
    """Returns every worker that may run at once by its own type, those with GPUs first."""
    machines: list[Machine] = []
    for name, kind in settings["available_node_types"].items():
        has: dict[str, Any] = kind.get("resources") or {}
        cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if name == settings["head_node_type"] or cpus == 0:
            continue
        memory_gb = has["memory"] / 2**30 if "memory" in has else GB_PER_CORE * cpus
        machines += [Machine(cpus, gpus, memory_gb)] * int(kind.get("max_workers", 0))
    return sorted(machines, key=lambda machine: -machine.num_gpus)
