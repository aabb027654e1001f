"""Stops placing trials while the disk is full, and for good if the machine keeps failing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.search.space import SearchSettings


def free_bytes(folder: Path) -> int:
    """Returns the free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


@dataclass
class CircuitBreaker:
    """Tells the controller whether it may place another trial."""

    folder: Path
    settings: SearchSettings
    say: Callable[[str], None]
    resume_command: str
    free: Callable[[Path], int] = free_bytes
    num_crashes: int = 0  # consecutive crashes, without a completed epoch in between
    lost_nodes: set[str] = field(default_factory=set[str])
    is_low_on_disk: bool = False
    is_over: bool = False  # no trial is placed any more

    def note_crash(self) -> None:
        """Counts one crash. The loss of a node or of Ray counts once, however many processes ran there."""
        self.num_crashes += 1
        if self.num_crashes == self.settings.max_crashes_in_a_row:
            self.give_up(
                f"{self.num_crashes} processes or nodes died in a row, so the cause is probably the machine, "
                "not a trial"
            )

    def note_lost_node(self, node_id: str) -> None:
        """Counts the loss of a node once, however many trials ran on the node."""
        if node_id not in self.lost_nodes:
            self.lost_nodes.add(node_id)
            self.note_crash()

    def note_progress(self) -> None:
        """Resets the count, because an epoch or a trial was completed."""
        self.num_crashes = 0

    def give_up(self, reason: str) -> None:
        """Stops placing trials for good. Running trials continue."""
        self.is_over = True
        self.say(
            f"{reason}: no more trials are started. Read {self.folder / 'ray.log'}, then resume the sweep: "
            f"{self.resume_command} --retry-failed"
        )

    def is_waiting(self) -> bool:
        """Says whether trials wait for disk space. Informs the user when this changes."""
        needed = self.settings.min_free_disk_gb
        free_gb = self.free(self.folder) / 2**30
        if (free_gb < needed) != self.is_low_on_disk:
            self.is_low_on_disk = not self.is_low_on_disk
            self.say(
                f"{free_gb:.2f} GB are free in {self.folder.parent}, less than search.min_free_disk_gb="
                f"{needed:g}: trials wait for space; running trials continue"
                if self.is_low_on_disk
                else f"{free_gb:.2f} GB are free again: the sweep continues"
            )
        return self.is_low_on_disk
