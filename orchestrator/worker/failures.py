"""Finds out why a trial failed, and reads and writes the failure files of its processes."""

from __future__ import annotations

import errno
import json
import os
import re
import traceback
from pathlib import Path

from orchestrator.storage.store import StorageError
from orchestrator.storage.trial_files import TrialFiles
from orchestrator.worker.trial_spec import Cause, TrialSpec
from trainables.artifacts import write_atomically
from trainables.errors import TrainingDiverged, UserError, WeightsUnavailable

# Imports inside functions: torch and Ray take seconds to load, and code that only checks needs neither.

WARNINGS = "warnings.json"
OUT_OF_MEMORY = re.compile("OutOfMemory|low on memory")
"""Matches Ray's message after its memory monitor killed a process."""

LOST_PEER = re.compile("gloo.*(reset|closed) by peer|NCCL.*remote process exited", re.DOTALL)
"""Matches the message of a collective after another process of the trial has died."""


class WorkerDied(Exception):
    """Ray Train lost a worker. A failure file of the worker takes precedence over this error."""


def has_lost_peers(error: BaseException) -> bool:
    """Returns whether a worker of several failed only because another one, or Train's own actor, has died."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) or bool(LOST_PEER.search(str(error)))


def explain(error: BaseException, workdir: Path) -> tuple[Cause, str]:
    """Returns cause and message of a failure. Writes the traceback of an unexpected one to `error.txt`."""
    if isinstance(error, WeightsUnavailable):
        return "unavailable", str(error)
    if isinstance(error, StorageError):
        return "storage_failed", str(error)
    if isinstance(error, TrainingDiverged):
        return "diverged", str(error)
    if isinstance(error, UserError):
        return "user_error", str(error)
    if said := last_words(workdir):  # written by a worker, before Train wrapped its error
        return said
    from trainables.losses.collectives import is_out_of_memory
    from trainables.losses.global_batch import NonFiniteLoss

    if is_out_of_memory(error):
        return "out_of_memory", _first_line(error)
    if OUT_OF_MEMORY.search(str(error)):  # a worker ran out of memory
        return "killed_for_memory", "a worker was killed because the machine ran out of memory"
    if isinstance(error, WorkerDied):
        return "process_died", "a worker died: killed from outside, or crashed in native code (see ray.log)"
    if isinstance(error, NonFiniteLoss | FloatingPointError):
        return "non_finite", str(error)
    if os.strerror(errno.ENOSPC) in str(error):  # an OSError, or a library's error with its text
        return "disk_full", f"{workdir}: {_first_line(error)}"
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "error.txt").write_text("".join(traceback.format_exception(error)))
    return "crash", f"{type(error).__name__}: {_first_line(error)} (traceback: {workdir / 'error.txt'})"


def last_words(workdir: Path) -> tuple[Cause, str] | None:
    """Returns cause and message from a failure file of the attempt; None if there is no file."""
    for path in sorted(workdir.glob(_failure_file("*"))):
        cause, message = json.loads(path.read_text())
        return cause, message
    return None


def leave_last_words(spec: TrialSpec, files: TrialFiles, rank: int, cause: Cause, message: str) -> None:
    """Writes a failure file, from which the driver reads why this process failed."""
    path = Path(spec.workdir) / _failure_file(rank)
    write_atomically(path, json.dumps([cause, message]))
    files.upload_failure(spec.attempt, path)


def warn(workdir: Path, warnings: list[str]) -> None:
    """Writes problems that the trial survived to a file for the driver."""
    said = read_warnings(workdir)
    if new := [text for text in warnings if text not in said]:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / WARNINGS, json.dumps(said + new))


def read_warnings(workdir: Path) -> list[str]:
    """Returns the warnings that `warn` wrote."""
    path = workdir / WARNINGS
    return json.loads(path.read_text()) if path.is_file() else []


def forget_words(workdir: Path, rank: int | str) -> None:
    """Deletes the failure files and warnings of an earlier attempt."""
    for path in [*workdir.glob(_failure_file(rank)), *([workdir / WARNINGS] if rank in (0, "*") else [])]:
        path.unlink(missing_ok=True)


def _failure_file(rank: int | str) -> str:
    return f"failure-{rank}.json"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
