"""A finding about one field of a cluster file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A finding: the field, the problem, and what to write instead."""

    where: str
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; {self.mend}"
