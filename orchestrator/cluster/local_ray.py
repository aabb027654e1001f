"""Starts Ray on 127.0.0.1 for one sweep, and deletes Ray's files at the end."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.environment import LOCAL, secure_environment
from orchestrator.cluster.resources import Concurrency
from orchestrator.storage.driver_lock import is_alive
from trainables.errors import ClusterError
from trainables.launch import LOOPBACK

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

OBJECT_STORE_BYTES = 100 * 2**20
"""Only short texts pass through Ray, never arrays. Ray's default would reserve a third of the memory."""

TOO_SLOW = "timed out during startup"
"""Ray's message after 30 seconds, a limit that cannot be changed. A busy machine may need a second try."""

EXECUTION = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `driver.signals` handles SIGINT and SIGTERM
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may need a while to end
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a frozen encoder has no epochs, a failed trial no score
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # `max_concurrent` is the limit; a lower value would delay starts
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the next check; the default is 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # `driver.pending_trials` watches instead
}
"""Environment variables with settings of Ray Tune and Ray Train."""


def load_ray() -> None:
    """Sets the variables that Ray reads at import, and imports Ray, before another thread imports Ray."""
    secure_environment()
    os.environ.update(LOCAL | EXECUTION | LOOPBACK)
    # Otherwise Ray writes a token to ~/.ray that everybody on the machine can read.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    importlib.import_module("ray")


@contextmanager
def local_ray(concurrency: Concurrency, *, log: Path, num_workers: int = 1) -> Generator[Path]:
    """Starts Ray on this machine, and yields a scratch folder for Ray's files.

    Inside the block, standard output and error go to `log`, because Ray's output bypasses Python. Call this
    function on the main thread: Ray's processes end with the thread that started them. If the driver is
    killed, all trials end (two idle agents stay for a minute).
    """
    load_ray()
    import ray

    terminate = signal.getsignal(signal.SIGTERM)
    scratch = make_scratch()
    with quiet(log):
        try:
            start_ray(concurrency, scratch, is_watched=num_workers > 1)
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler would exit at once
            yield scratch
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, terminate)
            shutil.rmtree(scratch, ignore_errors=True)


def start_ray(concurrency: Concurrency, scratch: Path, *, is_watched: bool) -> None:
    """Starts Ray's processes. `is_watched` adds the dashboard, which Ray Train needs for cleaning up."""
    import ray

    for is_last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=concurrency.num_cpus,
                num_gpus=concurrency.num_gpus,
                include_dashboard=is_watched,
                dashboard_host="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(scratch),
            )
            return
        except Exception as error:
            if is_last or TOO_SLOW not in str(error):
                raise ClusterError(f"Ray did not start on this machine: {error}".strip()) from error
            ray.shutdown()


@contextmanager
def quiet(log: Path) -> Generator[None]:
    """Sends standard output and error of this process and its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(saved, start=1):
            os.dup2(original, number)
            os.close(original)
        os.close(file)


def make_scratch() -> Path:
    """Makes a new private folder for Ray's files, and removes the folders of killed drivers.

    The folder is not in the home folder: the path of a socket may have 107 characters, and Ray adds 70.
    """
    parent = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    for left in parent.glob("co-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and left.stat().st_uid == os.getuid() and not is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"co-{os.getpid()}-", dir=parent))
