import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from orchestrator.worker.scratch import attempt_scratch

KILLED = """
import sys
from contextlib import suppress
from pathlib import Path
from orchestrator.worker.scratch import attempt_scratch
with attempt_scratch(Path(sys.argv[1]), "killed-1") as folder:
    (folder / "snapshot").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_an_attempt_leaves_nothing_whether_it_ends_well_or_not(tmp_path: Path):
    with attempt_scratch(tmp_path / "scratch", "key-1") as folder:
        assert folder.parent == tmp_path / "scratch"
        (folder / "run").mkdir()
    with suppress(ZeroDivisionError), attempt_scratch(tmp_path / "scratch", "key-2") as folder:
        (folder / "run").mkdir()
        raise ZeroDivisionError
    assert not list((tmp_path / "scratch").iterdir())


def test_the_same_attempt_of_two_sweeps_has_two_folders_and_neither_deletes_the_other(tmp_path: Path):
    with attempt_scratch(tmp_path, "key-1") as one, attempt_scratch(tmp_path, "key-1") as other:
        assert one != other
        assert one.is_dir()


def test_what_a_killed_process_left_goes_once_it_is_dead_and_nothing_of_others(tmp_path: Path):
    """As a node that a power cut took, and that came back."""
    others = tmp_path / "tune"  # Ray's, in the scratch folder of a driver
    others.mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        with attempt_scratch(tmp_path, "key-1"):
            assert (left / "snapshot").is_file()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with attempt_scratch(tmp_path, "key-1"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [others]
