"""Finds out why placed trials wait on a cluster, and whether any node can ever run them."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from orchestrator.cluster.cluster_state import num_unplaced, places_of, rooms
from orchestrator.cluster.gcs_client import still_to_come
from orchestrator.cluster.placement import CPU, GPU, Need, Room, can_ever_hold, waits_for
from orchestrator.cluster.resources import Machine
from orchestrator.driver.controller import Controller
from orchestrator.storage.driver_lock import WAITING
from trainables.artifacts import write_atomically

LOOK_SECONDS = 3.0
STUCK_SECONDS = 10.0
"""Time without a fitting node before the trials fail; replacing a node takes a moment."""

logger = logging.getLogger(__name__)


@dataclass
class PendingTrials:
    """Asks the head node every few seconds, on a separate thread. Errors here never end a sweep."""

    controller: Controller
    need: Need  # resources of each trial
    open_trials: Callable[[], Sequence[str]]  # keys of the placed trials, oldest first
    address: str
    job_id: str
    is_stopping: Callable[[], bool] = lambda: False
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    looked: float = 0.0
    fits_none_since: float | None = None

    def __call__(self) -> str:
        """Returns the missing resource if the sweep cannot continue; "" = continue.

        This is so if no trial runs, and no node will ever have room or the user ends the sweep.
        """
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return ""
        self.looked = time.monotonic()
        try:
            return self.look()
        except Exception:  # the head node is busy, or uses another protocol version
            logger.debug("found no reason why trials wait", exc_info=True)
            return ""

    def look(self) -> str:
        """Asks the head node once and informs the controller; see `__call__`."""
        keys = list(self.open_trials())
        num_waiting = num_unplaced(self.address, self.job_id)
        waiting = self.idle(keys)[-num_waiting:] if num_waiting else []
        if not waiting:
            self.fits_none_since = None
            self.tell({})
            return ""
        here = rooms(self.address)
        coming = still_to_come(self.address, [_machine(room) for room in here])
        why = waits_for(self.need, here, coming)
        self.tell(dict.fromkeys(waiting, why))
        if len(waiting) == len(keys) and self.is_stopping():
            return why  # no running epoch has to end first
        if len(waiting) < len(keys) or can_ever_hold(self.need, here, coming):
            self.fits_none_since = None
            return ""
        self.fits_none_since = self.fits_none_since or time.monotonic()
        return why if time.monotonic() - self.fits_none_since >= STUCK_SECONDS else ""

    def idle(self, keys: Sequence[str]) -> list[str]:
        """Returns the trials that have no process yet."""
        trials = self.controller.state.trials
        return [key for key in keys if not places_of(self.address, self.job_id, key, trials[key].attempts)]

    def tell(self, reasons: dict[str, str]) -> None:
        """Informs the controller and writes a file for `status`, if the reasons changed."""
        if reasons != self.reasons:
            self.reasons = reasons
            write_atomically(self.controller.folder / WAITING, json.dumps(reasons))
            self.controller.waiting(reasons)

    def close(self) -> None:
        """Deletes the file for `status`, because no trial waits any more."""
        with suppress(OSError):
            (self.controller.folder / WAITING).unlink(missing_ok=True)
        self.controller.waiting({})


def _machine(room: Room) -> Machine:
    has = room.total
    return Machine(int(has.get(CPU, 0)), int(has.get(GPU, 0)), has.get("memory", 0) / 2**30)
