"""Notices that Ray has died under a call that waits for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from orchestrator.cluster.gcs_client import is_alive
from orchestrator.cluster.ray_internals import this_node

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

WATCH_SECONDS = 1.0
LOST_SECONDS = 10.0
"""How long a cluster may keep silent: a busy head is not a dead one."""
WAKE_UP = signal.SIGURG
"""Ignored by default, and used by nobody else here."""


class NodeDied(Exception):
    """A process of Ray's own has died: what waits for Ray would wait for ever."""


class NoRoom(NodeDied):
    """Nothing runs, and no node that is there or to come can hold what waits: it would wait for ever."""


@contextmanager
def watched_node(find_stuck: Callable[[], str] = lambda: "") -> Generator[None]:
    """Raises `NodeDied` inside, also within a call of Ray's that waits, once Ray has died.

    A Ray of our own has died when one of its processes has; a cluster, when its head keeps silent about this
    node. It is raised by a signal handler, so call this on the main thread; see `undisturbed`.

    Args:
        find_stuck: is asked every second, and says what raises `NoRoom`.
    """
    find_dead, is_over, main = _finder(), threading.Event(), threading.get_ident()

    def watch() -> None:
        while not is_over.wait(WATCH_SECONDS):
            if dead := find_dead():
                died.append(NodeDied(dead))
            elif stuck := find_stuck():
                died.append(NoRoom(stuck))
            if died:
                signal.pthread_kill(main, WAKE_UP)  # again and again: Tune tidies up, and waits for Ray in it

    def wake_up(*_: object) -> None:
        raise died[0]

    died: list[NodeDied] = []
    before = signal.signal(WAKE_UP, wake_up)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with undisturbed():
            is_over.set()
            watcher.join()
            signal.signal(WAKE_UP, before)  # which ignores the one that may be waiting


@contextmanager
def undisturbed() -> Generator[None]:
    """Keeps `NodeDied` back until the end of what must not be cut in two."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE_UP})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finder() -> Callable[[], str]:
    """Returns what says, each time it is called, what has died; empty = nothing."""
    node = this_node()
    if node.all_processes:
        return lambda: _listed([kind for kind, _ in node.dead_processes()])
    return Silence(node.gcs_address, node.node_id)


def _listed(dead: list[str]) -> str:
    return f"{', '.join(dead)} died" if dead else ""


class Silence:
    """Says for how long a cluster has not known this node as alive, once that is too long."""

    def __init__(self, address: str, node_id: str) -> None:
        self.address, self.node_id = address, node_id
        self.heard = time.monotonic()

    def __call__(self) -> str:
        """Asks the head."""
        if is_alive(self.address, self.node_id):
            self.heard = time.monotonic()
        seconds = time.monotonic() - self.heard
        if seconds < LOST_SECONDS:
            return ""
        return f"the connection to the cluster at {self.address} is lost, for {seconds:.0f} s now"
