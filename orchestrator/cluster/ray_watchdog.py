"""Interrupts calls that wait for Ray, if Ray dies."""

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
"""Maximum silence of a cluster. The head may be busy rather than dead."""
WAKE_UP = signal.SIGURG
"""The signal that interrupts the main thread. It has no effect by default, and no other code uses it."""


class NodeDied(Exception):
    """A process of Ray has died, so waiting for Ray would never end."""


class NoRoom(NodeDied):
    """No trial runs, and no current or future node has room for a pending trial."""


@contextmanager
def watched_node(find_stuck: Callable[[], str] = lambda: "") -> Generator[None]:
    """Raises `NodeDied` in the block if Ray dies, even during a call that waits for Ray.

    A local Ray is dead if one of its processes is dead. A cluster is dead if its head no longer knows this
    node. A signal handler raises the exception, so call this on the main thread; see `undisturbed`.

    Args:
        find_stuck: called every second. If the returned text is not empty, `NoRoom` is raised with this text.
    """
    find_dead, is_over, main = _finder(), threading.Event(), threading.get_ident()

    def watch() -> None:
        while not is_over.wait(WATCH_SECONDS):
            if dead := find_dead():
                died.append(NodeDied(dead))
            elif stuck := find_stuck():
                died.append(NoRoom(stuck))
            if died:
                signal.pthread_kill(main, WAKE_UP)  # repeatedly, as Tune waits again in its clean-up

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
            signal.signal(WAKE_UP, before)  # the default handler ignores a pending signal


@contextmanager
def undisturbed() -> Generator[None]:
    """Delays `NodeDied` until the end of the block, which must not be interrupted."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE_UP})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finder() -> Callable[[], str]:
    """Returns a function that returns what has died, or an empty text."""
    node = this_node()
    if node.all_processes:
        return lambda: ", ".join(f"{kind} died" for kind, _ in node.dead_processes())
    return Silence(node.gcs_address, node.node_id)


class Silence:
    """Measures how long the head of a cluster has not reported that this node is alive."""

    def __init__(self, address: str, node_id: str) -> None:
        self.address, self.node_id = address, node_id
        self.heard = time.monotonic()

    def __call__(self) -> str:
        """Asks the head. Returns a message if the silence is too long, else an empty text."""
        if is_alive(self.address, self.node_id):
            self.heard = time.monotonic()
        seconds = time.monotonic() - self.heard
        if seconds < LOST_SECONDS:
            return ""
        return f"the connection to the cluster at {self.address} has been lost for {seconds:.0f} s"
