"""Computes the resources of a trial, whether they fit on the nodes, and what a trial waits for.

Does not import Ray. All trials of a sweep need the same resources, so trials never block each other: Ray
gives a trial all its places or none, and any free place suits any worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.resources import CPU, GPU, Machine, counted

NOUNS = {GPU: "GPU", CPU: "CPU core"}
PLACES = "clip_orchestrator_places"
"""Namespace in the head's key-value store for the nodes on which attempts run."""
TOLERANCE = 1e-6  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class Need:
    """The resources of one trial. Each worker runs on one node; different workers may use different nodes."""

    num_workers: int
    cpus: float
    gpus: float

    @property
    def per_worker(self) -> dict[str, float]:
        """Resources of one worker by Ray's names, GPUs first."""
        return {name: amount for name, amount in ((GPU, self.gpus), (CPU, self.cpus)) if amount > 0}

    def places(self, has: Mapping[str, float]) -> int:
        """Returns how many workers fit on a node with these resources."""
        return min(
            (
                _gpu_places(has.get(name, 0), amount) if name == GPU else _whole(has.get(name, 0) / amount)
                for name, amount in self.per_worker.items()
            ),
            default=0,
        )

    def __str__(self) -> str:
        """Returns text such as `2 workers of 1 GPU and 4 CPU cores`."""
        each = " and ".join(_amount(amount, NOUNS[name]) for name, amount in self.per_worker.items())
        return each if self.num_workers == 1 else f"{self.num_workers} workers of {each}"


@dataclass(frozen=True)
class Room:
    """One node, with its total and its free resources."""

    node_id: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    is_leaving: bool = False  # the cloud will shut this node down, so no trial starts on it


def place_key(job_id: str, trial_key: str = "", attempt: int | None = None) -> str:
    """Returns the key prefix of an attempt's places, or of all places of a trial or a job."""
    return "/".join([job_id, *([trial_key] if trial_key else []), *([str(attempt)] if attempt else []), ""])


def can_ever_hold(need: Need, rooms: Iterable[Room], coming: Iterable[Machine] = ()) -> bool:
    """Says whether a trial fits after all other trials have ended and all expected nodes have started."""
    here = sum(need.places(room.total) for room in rooms if not room.is_leaving)
    later = sum(need.places(machine.amounts) for machine in coming)
    return here + later >= need.num_workers


def waits_for(need: Need, rooms: Sequence[Room], coming: Sequence[Machine] = ()) -> str:
    """Returns what a pending trial waits for, such as `waits for 2 GPUs: 1 of 4 free`."""
    staying = [room for room in rooms if not room.is_leaving]
    if not can_ever_hold(need, staying):
        later = f", {len(coming)} may come" if coming else ""
        has = per_node([room.total for room in staying], list(need.per_worker))
        verb = "is" if len(staying) <= 1 else "are"
        return f"waits for a node: a trial takes {need}, and there {verb} {has}{later}"
    for name, amount in need.per_worker.items():
        wanted = amount * need.num_workers
        free = sum(room.free.get(name, 0) for room in staying)
        total = sum(room.total.get(name, 0) for room in staying)
        if free < wanted - TOLERANCE:
            return f"waits for {_amount(wanted, NOUNS[name])}: {free:g} of {total:g} free"
    num_free = sum(need.places(room.free) for room in staying)
    if num_free >= need.num_workers:
        return "waits for Ray to place the trial"
    return f"waits for {need}: only {num_free} fit, as the free resources are scattered over nodes"


def per_node(nodes: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Returns text such as `2 nodes with 2 + 2 GPUs and 8 + 4 CPU cores`, or `5 nodes with 5 × 2 GPUs`."""
    if not nodes:
        return "no node"
    parts = [f"{_listed([has.get(name, 0) for has in nodes])} {NOUNS[name]}s" for name in names]
    return f"{counted(len(nodes), 'node')} with {' and '.join(parts)}"


def _listed(amounts: Sequence[float]) -> str:
    if len(amounts) <= 4:
        return " + ".join(f"{amount:g}" for amount in amounts)
    return " + ".join(f"{number} × {amount:g}" for amount, number in Counter(amounts).items())


def _gpu_places(has: float, amount: float) -> int:
    """Returns how many workers fit on these GPUs. A fraction always belongs to one GPU."""
    if amount >= 1:
        return _whole(has / amount)
    whole, rest = divmod(has + TOLERANCE, 1)
    return int(whole) * _whole(1 / amount) + _whole(rest / amount)


def _whole(number: float) -> int:
    return int(number + TOLERANCE)


def _amount(amount: float, noun: str) -> str:
    return f"{amount:g} {noun}{'' if amount == 1 else 's'}"
