"""A real S3 interface on 127.0.0.1, in a process of its own, for the tests of what is kept in a storage."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "a-key-that-nobody-may-see",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """`uri(folder)` names a folder in the one bucket."""

    def __init__(self, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=file,
                stderr=file,
                env=os.environ | ENVIRONMENT,
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.request("bucket", "PUT")
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(log.read_text())

    def request(self, path: str, method: str = "GET", content: bytes | None = None) -> bytes:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", content, method=method)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.read()

    def uri(self, folder: str) -> str:
        return f"s3://bucket/{folder}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    @contextmanager
    def away(self):
        """It takes connections and never answers."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        self.process.kill()
        self.process.wait()
