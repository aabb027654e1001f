"""What keeps a sweep from placing trials: a disk that fills up, or a machine that kills one after another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.search.space import SearchSettings
from trainables.shell import command


def free_bytes(folder: Path) -> int:
    """Returns what is free on the disk of a folder."""
    return shutil.disk_usage(folder).free


@dataclass
class CircuitBreaker:
    """Asked before a trial is placed. Low disk space passes; a machine that only kills needs a person."""

    folder: Path
    settings: SearchSettings
    say: Callable[[str], None]
    free: Callable[[Path], int] = free_bytes
    num_crashes: int = 0  # in a row: no attempt got through an epoch between them
    lost_nodes: set[str] = field(default_factory=set[str])
    is_low_on_disk: bool = False
    is_over: bool = False  # no trial is placed any more

    def note_crash(self) -> None:
        """Takes in that a process died, or a node or Ray with all of theirs."""
        self.num_crashes += 1
        if self.num_crashes == self.settings.max_crashes_in_a_row:
            self.give_up(
                f"{self.num_crashes} processes or nodes died in a row, so the fault lies with this machine "
                "rather than with a trial"
            )

    def note_lost_node(self, node_id: str) -> None:
        """Takes in that a node is gone: one, however many trials stood on it."""
        if node_id not in self.lost_nodes:
            self.lost_nodes.add(node_id)
            self.note_crash()

    def note_progress(self) -> None:
        """Takes in that an epoch, or a trial, went well."""
        self.num_crashes = 0

    def give_up(self, reason: str) -> None:
        """Ends the placing of trials; running ones go on."""
        self.is_over = True
        self.say(
            f"{reason}: no further one is started. Look into {self.folder / 'ray.log'}, then go on: "
            + command(f"sweep --resume {self.folder.name} --retry-failed")
        )

    def is_waiting(self) -> bool:
        """Says whether trials have to wait for space on the disk; says so to the user when that changes."""
        needed = self.settings.min_free_disk_gb
        free_gb = self.free(self.folder) / 2**30
        if (free_gb < needed) != self.is_low_on_disk:
            self.is_low_on_disk = not self.is_low_on_disk
            self.say(
                f"{free_gb:.2f} GB are free in {self.folder.parent}, fewer than search.min_free_disk_gb="
                f"{needed:g}: trials wait for space; running ones go on"
                if self.is_low_on_disk
                else f"{free_gb:.2f} GB are free again: the sweep goes on"
            )
        return self.is_low_on_disk
