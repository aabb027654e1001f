"""Uses Ray's Jobs API: submits sweeps to a cluster, follows their output, lists and stops jobs."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster.gcs_client import TOKEN_HINT, check_token, check_version
from orchestrator.cluster.nodes import LOOPBACK_HOSTS
from orchestrator.cluster.ray_internals import ASK_SECONDS, open_job_client, version_of
from orchestrator.storage.paths import HOME_VARIABLE, PROJECT
from trainables.config.fields import did_you_mean
from trainables.errors import ClusterError, ConfigError
from trainables.shell import command

# Imports inside functions: Ray takes seconds to load, and reads its environment at that moment.

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
FORWARDED = (HOME_VARIABLE, TRACKING_VARIABLE)
SECRET = re.compile(r"RAY_AUTH|.*(PASSWORD|SECRET|TOKEN)", re.IGNORECASE)
"""Names that are never sent: Ray logs the variables of a job, and passes the variables to every trial."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 60
"""Seconds from the request to stop a job until Ray kills the job. A sweep needs more than Ray's 3 s."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Job:
    """One job. `exit_code` is the exit code of its driver; None = the driver is still running."""

    job_id: str
    status: str
    entrypoint: str
    started: float  # seconds since 1970
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Says whether the job has ended."""
        return self.status in ENDED


class JobServer:
    """The Jobs API of one cluster.

    Args:
        address: see `job_address`.
        warn: called with a message before the token crosses a network unencrypted.

    Raises:
        ConfigError: the address is not an http or https address.
        ClusterError: the head does not answer, refuses the token, or runs another version of Ray.
    """

    def __init__(self, address: str | None, warn: Callable[[str], object] = lambda _: None) -> None:
        self.address = job_address(address)
        check_token(self.address)
        for name in ADDRESS_VARIABLES:  # Ray would prefer them to the given address
            os.environ.pop(name, None)
        check_port(self.address)
        if host := plain_text_host(self.address):
            warn(f"the token is sent to {host} unencrypted; safer: ssh -L 8265:127.0.0.1:8265 {host}")
        self.client: Any = self._call(open_job_client, self.address)
        check_version(self.address, version_of(self.client))

    def submit(
        self,
        arguments: Sequence[str],
        space: Path | None,
        variables: dict[str, str],
        *,
        python: str = "python",
    ) -> str:
        """Submits `python -m orchestrator sweep …` with this code, and returns the id of the job.

        Args:
            arguments: arguments of `sweep`, without the space.
            space: search-space file on this machine; None if `sweep` needs no file.
            variables: environment variables of the job and its trials, without the token.
            python: Python interpreter of the cluster.
        """
        with tempfile.TemporaryDirectory() as folder:
            packed = pack(space, Path(folder))
            words = [python, "-m", "orchestrator", "sweep", *([packed] if packed else []), *arguments]
            environment = {
                "working_dir": folder,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)} | variables,
            }
            return self._call(self.client.submit_job, entrypoint=shlex.join(words), runtime_env=environment)

    def find(self, job_id: str) -> Job:
        """Returns a job. Raises ConfigError, with the nearest id, if no job has this id."""
        known = {job.job_id: job for job in self.jobs()}
        if job_id not in known:
            hint = did_you_mean(job_id, known) or f"; see {command('jobs list')}"
            raise ConfigError(f"job '{job_id}': the cluster at {self.address} has no such job{hint}")
        return known[job_id]

    def jobs(self) -> list[Job]:
        """Returns the submitted jobs of the cluster, the newest last."""
        found = [_job(details) for details in self._call(self.client.list_jobs) if details.submission_id]
        return sorted(found, key=lambda job: job.started)

    def logs(self, job_id: str) -> str:
        """Returns the output of a job so far."""
        return self._call(self.client.get_job_logs, self.find(job_id).job_id)

    def stop(self, job_id: str) -> bool:
        """Asks a job to stop. Returns whether the job was running."""
        return self._call(self.client.stop_job, self.find(job_id).job_id)

    def follow(self, job_id: str, write: Callable[[str], object]) -> int:
        """Writes the output of a job until it ends, and returns its exit code.

        The exit code is 130 for a stopped job, and 1 for a job that never started.
        """
        num_written = 0
        while True:
            job = _job(self._patiently(self.client.get_job_info, job_id))
            if job.status != "PENDING":  # before that, the log is about the set-up
                text = self._patiently(self.client.get_job_logs, job_id)
                write(text[num_written:])
                num_written = len(text)
            if job.has_ended:
                break
            time.sleep(POLL_SECONDS)
        if job.status == "STOPPED":
            return INTERRUPTED
        if job.exit_code is None:
            write(f"{job.message}\n")
            return FAILED
        return job.exit_code

    def _patiently(self, ask: Callable[[str], Any], job_id: str) -> Any:
        """Repeats a failed request for a minute, because a tunnel may be interrupted for a second."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._call(ask, job_id)
            except ClusterError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{error}. {job_id} may still be running; see: {command('jobs list')}"
                    ) from error
                time.sleep(POLL_SECONDS)

    def _call(self, ask: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Sends a request, and turns every failure into a ClusterError."""
        from ray.exceptions import AuthenticationError

        try:
            return ask(*arguments, **options)
        except AuthenticationError as error:
            raise ClusterError(f"the cluster at {self.address} refuses this token; {TOKEN_HINT}") from error
        except (OSError, RuntimeError, LookupError, ValueError) as error:  # requests' errors are OSErrors
            raise ClusterError(f"the cluster at {self.address}: {error or type(error).__name__}") from error


def check_port(address: str) -> None:
    """Raises ClusterError if nothing listens at the address. A plain request might wait for minutes."""
    place = urlsplit(address)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), ASK_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no cluster answers at {address} ({error.strerror or error}): check that its head runs (ray "
            f"start --head) with a dashboard at port {port}. The dashboard listens on the head only; "
            f"on another machine, run ssh -L 8265:127.0.0.1:8265 HEAD, then use --address {DEFAULT_ADDRESS}"
        ) from error


def plain_text_host(address: str) -> str | None:
    """Returns the host to which the token would be sent unencrypted; None = encrypted, or this machine."""
    place = urlsplit(address)
    is_safe = place.scheme == "https" or place.hostname in LOOPBACK_HOSTS
    return None if is_safe else place.hostname


def job_address(given: str | None) -> str:
    """Returns the address of a cluster's Jobs API.

    Args:
        given: value of `--address`. None = `RAY_API_SERVER_ADDRESS`, else `RAY_ADDRESS` if it is an http
            address, else this machine.

    Raises:
        ConfigError: the address is not http or https. For other schemes, Ray would import a module.
    """
    ours, rays = (os.environ.get(name, "") for name in ADDRESS_VARIABLES)
    if not rays.startswith(("http://", "https://")):
        rays = ""  # an address of the head's GCS, which is for `sweep`
    address = (given if given is not None else ours or rays or DEFAULT_ADDRESS).rstrip("/")
    try:
        place = urlsplit(address)
        is_usable = place.scheme in ("http", "https") and bool(place.hostname) and place.port != 0
    except ValueError:
        place, is_usable = None, False
    if place is None or not is_usable or place.username or place.path or place.query:
        raise ConfigError(f"--address {address}: use http://HOST:8265, the dashboard of the cluster's head")
    return address


def job_variables(names: Sequence[str]) -> dict[str, str]:
    """Returns the environment variables of a job: the named variables, the home folder and MLflow's URI.

    Raises:
        ConfigError: a variable is not set, or contains a secret, which the cluster would show.
    """
    for name in names:
        if SECRET.match(name):
            raise ConfigError(
                f"--env {name}: secrets are not sent, because the cluster logs them. Its nodes have "
                "their own token; set other secrets on the head before `ray start`"
            )
        if name not in os.environ:
            raise ConfigError(f"--env {name}: this variable is not set{did_you_mean(name, os.environ)}")
    found = {name: os.environ[name] for name in (*FORWARDED, *names) if name in os.environ}
    if urlsplit(found.get(TRACKING_VARIABLE, "")).password:
        raise ConfigError(
            f"{TRACKING_VARIABLE}: contains a password, which all users of the cluster could read; set this "
            "variable on the head before `ray start`, and unset it on this machine"
        )
    return found


def _job(details: Any) -> Job:
    return Job(
        details.submission_id,
        str(getattr(details.status, "value", details.status)),
        details.entrypoint,
        (details.start_time or 0) / 1000,
        details.driver_exit_code,
        details.message or "",
    )


FOLDERS = ("orchestrator", "trainables", "search_spaces")
FILES = ("pyproject.toml", "constraints.txt")
KINDS = (".py", ".json", ".yaml", ".toml", ".txt")
MAX_BYTES = 20 * 2**20
"""Maximum size of the code, which is about 1 MB. Ray keeps the code in the memory of the head."""


def pack(space: Path | None, target: Path, *, project: Path = PROJECT) -> str | None:
    """Copies the files of a job into an empty folder, and returns the path of the space in that folder.

    Args:
        space: search-space file; None = the job uses a file of `search_spaces/`, or no file.
        target: the empty folder.
        project: folder that contains this code.
    """
    found = [path for name in FOLDERS for path in sorted((project / name).rglob("*")) if path.suffix in KINDS]
    found += [project / name for name in FILES]
    copies = {path: path.relative_to(project) for path in found if path.is_file() and not path.is_symlink()}
    check_size(list(copies), project)
    if space is not None:
        copies[space] = Path("search_spaces", space.name)
    for path, name in copies.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    return str(copies[space]) if space is not None else None


def check_size(files: list[Path], project: Path) -> None:
    """Raises ConfigError if files are too large for the memory of a head."""
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = max(files, key=lambda path: sizes[path])
        raise ConfigError(
            f"a job would send {total / 2**20:.0f} MB, but only {MAX_BYTES / 2**20:.0f} MB are allowed. The "
            f"largest file is {largest.relative_to(project)} ({sizes[largest] / 2**20:.0f} MB); move this "
            f"file out of {', '.join(FOLDERS)}, to the data folder of the cluster"
        )
