"""A real Ray head for the tests, on 127.0.0.1 alone, with a token, in a folder and a home of its own."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sweep_process import plain_environment

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).resolve().parents[2]
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "ray-client-server-port",
)


@dataclass
class Head:
    """What the tests know of it."""

    process: subprocess.Popen
    folder: Path
    token: str
    port: int
    dashboard_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def home(self) -> Path:
        """Of the user on the head: sweeps of jobs lie in it."""
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """Of a user who has the token."""
        return private_environment(self.folder) | {"RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def ask(self, path: str, *, token: str | None, method: str = "GET", **headers: str) -> int:
        """The HTTP status of a request."""
        headers |= {"Content-Type": "application/json"}
        headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
        body = json.dumps({"entrypoint": "true"}).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def run(
        self, *command: str, variables: dict | None = None, timeout: int = 280
    ) -> subprocess.CompletedProcess:
        """A command of somebody who reaches the head."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | (variables or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def private_environment(folder: Path) -> dict[str, str]:
    """Without a token."""
    kept = {name: value for name, value in plain_environment().items() if not name.startswith("CLIP_")}
    return kept | {
        "HOME": str(folder / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every socket on 127.0.0.1
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def running_head(*, num_cpus: int = 2) -> Generator[Head]:
    """Starts a head, and ends it by its process group."""
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # sockets want a short path
    (folder / "home").mkdir()
    token = secrets.token_hex(32)
    file = os.open(folder / "token", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(file, token.encode())
    os.close(file)
    ports = free_ports(len(PORTS))
    options = [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    options += [f"--num-cpus={num_cpus}", "--dashboard-host=127.0.0.1", "--object-store-memory=100000000"]
    environment = private_environment(folder)
    del environment["PYTHONPATH"]  # a job brings its own code
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", *options],
            env=environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    head = Head(process, folder, token, ports[0], ports[1])
    try:
        wait_until_up(head)
        yield head
    finally:
        stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_up(head: Head) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert head.process.poll() is None, (head.folder / "head.log").read_text()
        with suppress(OSError):
            if head.ask("/api/jobs/", token=head.token) == 200:
                return
        time.sleep(0.2)
    raise AssertionError((head.folder / "head.log").read_text())


def stop(head: Head) -> None:
    head.process.terminate()  # it ends its own; they, told too, would each wait for the others
    with suppress(subprocess.TimeoutExpired):
        head.process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(head.process.pid, signal.SIGKILL)
    head.process.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
