"""A driver for the tests, in a process of its own: runs a sweep of toys and says what it saw, as JSON."""

import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.cli.sweep import storage_of
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.resume import read_started, space_of
from orchestrator.driver.sweep import SweepOptions, run_sweep
from orchestrator.search.space_file import read_space
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import store

LISTEN = "0A"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


class Witness(SweepObserver):
    """Notes events, and at each report every process below this one and every socket they listen on."""

    def __init__(self):
        self.events: list[list] = []
        self.pids: set[int] = set()
        self.sockets: set[str] = set()

    def on_trial_placed(self, trial):
        self.events.append(["placed", trial.name])

    def on_trial_reported(self, trial):
        self.events.append(["reported", trial.name, *trial.history[-1][:2]])
        self.look()

    def on_trial_finished(self, trial):
        self.events.append(["finished", trial.name])
        self.look()

    def on_trial_failed(self, trial):
        self.events.append(["failed", trial.name, trial.cause])

    def on_trials_waiting(self, reasons):
        self.events.append(["waiting", sorted(set(reasons.values()))])

    def on_message(self, text):
        self.events.append(["message", text])
        if "trials wait for space" in text:
            (store() / "ballast").unlink()

    def look(self):
        pids = descendants(os.getpid())
        self.pids |= pids
        self.sockets |= listening(pids | {os.getpid()})


def descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, new = set(), [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found |= set(new)
    return found


def listening(pids: set[int]) -> set[str]:
    """The addresses, in hexadecimal, of sockets that these processes accept connections on."""
    inodes = set()
    for pid in pids:
        try:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(file)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in inodes:
                found.add(fields[1].rpartition(":")[0])
    return found


def kill_at(seq: int, num_bytes: int) -> None:
    """Lets this process be killed within a write: of entry `seq` only so many bytes reach the disk."""
    write = Ledger._write

    def cut(ledger: Ledger, line: bytes) -> None:
        if json.loads(line)["seq"] < seq:
            write(ledger, line)
            return
        os.write(ledger._file, line[:num_bytes])
        os.kill(os.getpid(), signal.SIGKILL)

    Ledger._write = cut


def main() -> None:
    content, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    if place := options.pop("kill_at", None):
        kill_at(*place)
    extend = options.pop("extend", None)
    if address := options.pop("address", None):
        from orchestrator.cluster.cluster_ray import find_cluster

        options["cluster"] = find_cluster(address)
    if options.get("resumes"):
        options["storage"] = storage_of(options["name"], options.get("storage"))
        space = space_of(read_started(options["name"]), extend=extend)
    else:
        space = read_space(content)
    store().mkdir(parents=True, exist_ok=True)
    (store() / "driver.pid").write_text(str(os.getpid()))
    witness = Witness()
    outcome = run_sweep(space, SweepOptions(**options), witness)
    seen = {
        "exit_code": outcome.exit_code,
        "name": outcome.name,
        "events": witness.events,
        "pids": sorted(witness.pids),
        "foreign_sockets": sorted(witness.sockets - set(LOOPBACK)),
        "num_sockets": len(witness.sockets),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
