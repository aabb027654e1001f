import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.cluster.local_ray import make_scratch, quiet
from orchestrator.driver.signals import stop_requests

NOISY = """
import os, subprocess, sys
from pathlib import Path
from orchestrator.cluster.local_ray import make_scratch, quiet
print("before")
with quiet(Path(sys.argv[1])):
    print("from python")
    print("an error", file=sys.stderr)
    os.write(2, b"from a library\\n")
    subprocess.run(["echo", "from a process"], check=True)
print("after")
"""


def test_what_bypasses_python_goes_to_the_log_too(tmp_path: Path):
    command = [sys.executable, "-c", NOISY, str(tmp_path / "log")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (found.stdout.split(), found.stderr) == (["before", "after"], "")
    logged = (tmp_path / "log").read_text()
    assert all(f"from {who}" in logged for who in ("python", "a library", "a process"))
    assert "an error" in logged


def test_the_terminal_comes_back_after_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(KeyboardInterrupt), quiet(tmp_path / "log"):
        raise KeyboardInterrupt
    os.write(1, b"back")
    assert capfd.readouterr().out == "back"


def test_what_killed_drivers_left_is_removed_and_nothing_else():
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = Path(tempfile.mkdtemp(prefix=f"co-{gone.pid}-", dir="/tmp"))
    other = Path(tempfile.mkdtemp(prefix="co-notes-", dir="/tmp"))
    mine, again = make_scratch(), make_scratch()
    try:
        assert not stale.exists()
        assert other.exists()
        assert mine.exists()
        assert mine != again
    finally:
        for folder in (other, mine, again):
            folder.rmdir()


def test_a_signal_interrupts_at_once_outside_the_trials():
    with stop_requests() as found:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert found.exit_code == 143


def test_a_signal_asks_tune_to_end_and_the_second_does_not_ask():
    asked = []
    with stop_requests() as found, found.gently():
        signal.signal(signal.SIGUSR1, lambda *_: asked.append("Tune"))  # what Tune does at its start
        signal.raise_signal(signal.SIGINT)
        assert (asked, found.exit_code) == (["Tune"], 130)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == ["Tune"]


def test_handlers_are_as_before_afterwards():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with stop_requests():
        signal.signal(signal.SIGUSR1, lambda *_: None)
    assert [signal.getsignal(number) for number in numbers] == before
