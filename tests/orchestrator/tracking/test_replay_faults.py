"""MLflow behind a line that fails in every way, at any time: then it holds what it would have held."""

import http.server
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from ledger_history import by_kind, runs_of, wait_until
from mlflow_tree import PARTS, tree, write

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import sweep_folder
from orchestrator.tracking.mlflow_server import Server, serve
from orchestrator.tracking.replay import LOG, Replayer, sync


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("tracking-faults") / "home"
        patch.setenv("CLIP_ORCHESTRATOR_HOME", str(home))
        home.mkdir()
        found = serve(f"sqlite:///{home / 'mlflow.db'}", port=21500)
        yield found
        found.stop()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Trouble = Literal["none", "down", "error", "hang", "lost"]


class Line(http.server.ThreadingHTTPServer):
    """Passes requests on to an MLflow server, or does what `trouble` says."""

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), Request)
        self.target = target
        self.trouble: Trouble = "none"
        self.is_over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def end(self) -> None:
        self.is_over.set()
        self.shutdown()
        self.server_close()


class Request(http.server.BaseHTTPRequestHandler):
    server: Line

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = self.server.trouble
        if trouble == "hang":
            self.server.is_over.wait(120)
        if trouble in ("down", "hang"):
            self.close_connection = True
            return
        if trouble == "error":
            self.answer(500, b"{}")
            return
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(self.server.target + self.path, body or None, headers)
        request.method = self.command
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                status, content = found.status, found.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        if trouble == "lost":  # it was done, and nobody hears of it
            self.close_connection = True
            return
        self.answer(status, content)

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> dict[str, Any]:
    folder = sweep_folder("undisturbed")
    with Ledger(folder) as ledger:
        for part in PARTS:
            write(part, ledger, folder)
    assert sync(folder, server.base_url).reason == ""
    found = tree(server, "undisturbed")
    assert len(found) == 1 + 3 + 12  # the sweep, its trials, their probe strengths
    return found


QUICKLY = {("down", "start"), ("lost", "start"), ("error", "middle"), ("hang", "end")}


@pytest.mark.parametrize(
    ("trouble", "when"),
    [
        pytest.param(trouble, when, marks=[] if (trouble, when) in QUICKLY else pytest.mark.faults)
        for trouble in ("down", "error", "lost", "hang")
        for when in PARTS
    ],
)
def test_after_trouble_mlflow_holds_what_it_would_have_held(
    server: Server, undisturbed: dict[str, Any], trouble: Trouble, when: str
):
    name = f"{trouble}-{when}"
    folder, line = sweep_folder(name), Line(server.base_url)
    replayer = Replayer(folder, line.url)
    replayer.start()
    try:
        with Ledger(folder) as ledger:
            for part in PARTS:
                line.trouble = trouble if part == when else "none"
                began = time.monotonic()
                write(part, ledger, folder)
                assert time.monotonic() - began < 2  # the sweep does not wait for MLflow
                if part == when:
                    wait_until(lambda: "MLflow: " in (folder / LOG).read_text())
        line.trouble = "none"
        assert replayer.finish(120), replayer.reason
    finally:
        line.end()
    assert tree(server, name) == undisturbed


def test_a_database_that_another_writer_locks_is_waited_for(server: Server, undisturbed: dict[str, Any]):
    folder = sweep_folder("locked")
    database = folder.parent.parent / "mlflow.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other, Ledger(folder) as ledger:
        other.execute("begin exclusive")
        replayer = Replayer(folder, f"sqlite:///{database}")
        replayer.start()
        for part in PARTS:
            write(part, ledger, folder)
        wait_until(lambda: "database is locked" in (folder / LOG).read_text(), 120)
        other.execute("rollback")
    assert replayer.finish(120), replayer.reason
    assert tree(server, "locked") == undisturbed
    assert by_kind(runs_of(server.base_url, "locked"), "sweep")["locked"]["status"] == "FINISHED"


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small disk of its own needs unshare")
def test_a_full_or_read_only_disk_under_mlflow_costs_neither_run_nor_point(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = Path(__file__).parents[1] / "small_disk.py"
    on_small_disk = f'mount -t tmpfs -o size=16m none {disk} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", on_small_disk, "sh", sys.executable, script, disk, tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stdout + found.stderr
