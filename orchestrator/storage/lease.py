"""The lock of a sweep in its storage: a file that its driver renews; when stale, another one may take it."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.storage.driver_lock import is_alive
from orchestrator.storage.store import CHECKS, Storage
from trainables.artifacts import fingerprint
from trainables.errors import ClusterError

LEASE = "lease.json"
LEASE_SECONDS = 60.0
"""Not renewed for so long, by the storage's own clock, a lease is anybody's."""
RENEW_SECONDS = 15.0
CLOCKS_DIFFER_SECONDS = 60.0
"""Who may only read has no clock but its own; so much later it takes a driver for dead."""
SETTLE_SECONDS = 1.0
"""Two drivers that write at once: who reads itself back after this time has it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    owner: str  # random, of one driver
    host: str
    pid: int
    machine: str  # equal where process ids mean the same processes
    since: str  # ISO 8601, UTC
    expires: str

    def to_bytes(self) -> bytes:
        """Returns what stands in the file, for people too."""
        return json.dumps(asdict(self), indent=1).encode()


class Lease:
    """One driver's hold on a sweep."""

    def __init__(self, storage: Storage, sweep: str) -> None:
        self.storage, self.sweep = storage, sweep
        self.key = f"sweeps/{sweep}/{LEASE}"
        self.owner = secrets.token_hex(8)
        self.since = datetime.now(UTC).isoformat(timespec="seconds")

    def acquire(self) -> None:
        """Takes the lease.

        Raises:
            ClusterError: another driver has it; says who, and since when.
            StorageError: the storage does not answer.
        """
        if self.refuse_if_held():
            self.storage.delete(self.key)
        if self.storage.create(self.key, self._content()):
            time.sleep(SETTLE_SECONDS)
        holder = self.holder()
        if holder is None or holder.owner != self.owner:
            raise self._refused(holder)

    def refuse_if_held(self) -> bool:
        """Says whether a stale lease lies there.

        Raises:
            ClusterError: one lies there that is not stale.
        """
        holder = self.holder()
        if holder is not None and not self._is_stale(holder):
            raise self._refused(holder)
        return holder is not None

    def renew(self) -> Holder | None:
        """Prolongs the lease; returns who has it instead, if somebody took it."""
        holder = self.holder()
        if holder is not None and holder.owner != self.owner:
            return holder
        self.storage.put_bytes(self.key, self._content())
        return None

    def release(self) -> None:
        """Gives the lease up, unless somebody else has it."""
        holder = self.holder()
        if holder is not None and holder.owner == self.owner:
            self.storage.delete(self.key)

    def holder(self) -> Holder | None:
        """Returns who has it, None where nobody does."""
        try:
            return Holder(**json.loads(self.storage.get_bytes(self.key)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # not ours to read: held, until it is stale
            return Holder("", "unknown", 0, "", "unknown", "unknown")

    def seen(self) -> Holder | None:
        """Returns who runs the sweep, as far as reading alone tells; None where nobody has for a while."""
        holder = self.holder()
        if holder is None or _died_here(holder):
            return None
        try:
            age = time.time() - self.storage.modified(self.key)
        except FileNotFoundError:  # it was given up just now
            return None
        return holder if age <= LEASE_SECONDS + CLOCKS_DIFFER_SECONDS else None

    def _content(self) -> bytes:
        expires = (datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)).isoformat(timespec="seconds")
        return Holder(self.owner, platform.node(), os.getpid(), machine(), self.since, expires).to_bytes()

    def _is_stale(self, holder: Holder) -> bool:
        """A driver of this machine that is dead has let go at once; others are given their time."""
        if _died_here(holder):
            return True
        clock = f"{CHECKS}/{secrets.token_hex(8)}"
        self.storage.put_bytes(clock, b"what time is it?")
        try:
            return self.storage.modified(clock) - self.storage.modified(self.key) > LEASE_SECONDS
        except FileNotFoundError:  # it was given up just now
            return True
        finally:
            self.storage.delete(clock)

    def _refused(self, holder: Holder | None) -> ClusterError:
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another driver"
        return ClusterError(
            f"sweep '{self.sweep}' in {self.storage.uri} is being run by {who}; wait for it, or stop it "
            f"there. One that has died lets go {LEASE_SECONDS:.0f} seconds after its last sign of life"
        )


def _died_here(holder: Holder) -> bool:
    return holder.machine == machine() and not is_alive(holder.pid)


def machine() -> str:
    """Returns what names this machine since it booted, as far as its processes see one another."""
    parts = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return fingerprint("machine", parts)
