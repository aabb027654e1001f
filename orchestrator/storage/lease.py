"""The lease of a sweep: a file in the storage, which the driver renews. Others may take a stale lease."""

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
"""A lease that was not renewed for this time, by the clock of the storage, is stale."""
RENEW_SECONDS = 15.0
CLOCKS_DIFFER_SECONDS = 60.0
"""Extra time before a reader reports a driver as dead: it writes nothing, so it cannot read that clock."""
SETTLE_SECONDS = 1.0
"""If two drivers write a lease at the same time, the lease belongs to the one in the file after this time."""


@dataclass(frozen=True)
class Holder:
    """The driver that holds a lease."""

    owner: str  # a random name, new for each driver
    host: str
    pid: int
    machine: str  # see `machine`
    since: str  # ISO 8601, UTC
    expires: str

    def to_bytes(self) -> bytes:
        """Returns the content of the lease file, as JSON that people can read."""
        return json.dumps(asdict(self), indent=1).encode()


class Lease:
    """The lease of one sweep, for one driver."""

    def __init__(self, storage: Storage, sweep: str) -> None:
        self.storage, self.sweep = storage, sweep
        self.key = f"sweeps/{sweep}/{LEASE}"
        self.owner = secrets.token_hex(8)
        self.since = datetime.now(UTC).isoformat(timespec="seconds")

    def acquire(self) -> None:
        """Takes the lease of the sweep.

        Raises:
            ClusterError: another driver holds the lease; the message names the driver.
        """
        if self.refuse_if_held():
            self.storage.delete(self.key)
        if self.storage.create(self.key, self._content()):
            time.sleep(SETTLE_SECONDS)
        holder = self.holder()
        if holder is None or holder.owner != self.owner:
            raise self._refused(holder)

    def refuse_if_held(self) -> bool:
        """Returns whether a stale lease exists.

        Raises:
            ClusterError: a lease exists and is not stale.
        """
        holder = self.holder()
        if holder is not None and not self._is_stale(holder):
            raise self._refused(holder)
        return holder is not None

    def renew(self) -> Holder | None:
        """Renews the lease. If another driver has taken the lease, returns that driver instead."""
        holder = self.holder()
        if holder is not None and holder.owner != self.owner:
            return holder
        self.storage.put_bytes(self.key, self._content())
        return None

    def release(self) -> None:
        """Deletes the lease, unless another driver holds it."""
        holder = self.holder()
        if holder is not None and holder.owner == self.owner:
            self.storage.delete(self.key)

    def holder(self) -> Holder | None:
        """Returns the driver that holds the lease, or None."""
        try:
            return Holder(**json.loads(self.storage.get_bytes(self.key)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # unreadable: counts as held until it is stale
            return Holder("", "unknown", 0, "", "unknown", "unknown")

    def seen(self) -> Holder | None:
        """Returns the driver that runs the sweep, or None. Writes nothing to the storage."""
        holder = self.holder()
        if holder is None or _died_here(holder):
            return None
        try:
            age = time.time() - self.storage.modified(self.key)
        except FileNotFoundError:  # released just now
            return None
        return holder if age <= LEASE_SECONDS + CLOCKS_DIFFER_SECONDS else None

    def _content(self) -> bytes:
        expires = (datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)).isoformat(timespec="seconds")
        return Holder(self.owner, platform.node(), os.getpid(), machine(), self.since, expires).to_bytes()

    def _is_stale(self, holder: Holder) -> bool:
        """Returns whether the driver died on this machine, or did not renew the lease in time."""
        if _died_here(holder):
            return True
        clock = f"{CHECKS}/{secrets.token_hex(8)}"
        self.storage.put_bytes(clock, b"what is the time?")
        try:
            return self.storage.modified(clock) - self.storage.modified(self.key) > LEASE_SECONDS
        except FileNotFoundError:  # released just now
            return True
        finally:
            self.storage.delete(clock)

    def _refused(self, holder: Holder | None) -> ClusterError:
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another driver"
        return ClusterError(
            f"sweep '{self.sweep}' in {self.storage.uri} is being run by {who}; wait until it ends, or stop "
            f"it on that machine. If that driver has died, its lease ends after {LEASE_SECONDS:.0f} seconds"
        )


def _died_here(holder: Holder) -> bool:
    return holder.machine == machine() and not is_alive(holder.pid)


def machine() -> str:
    """Returns a name for this boot of this machine and this namespace of process ids."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    found = [boot.read_text() if boot.exists() else "", os.readlink(namespace) if namespace.exists() else ""]
    return fingerprint("machine", [platform.node(), *found])
