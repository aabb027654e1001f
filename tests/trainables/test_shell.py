from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainables.shell import RAY_JOB_VARIABLE, command, interpreter

PROJECT = Path(__file__).resolve().parents[2]
BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def link(folder: Path, name: str, to: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(to)
    return folder / name


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a virtual environment, which is not active."""
    ours = link(tmp_path / "project" / ".venv" / "bin", "python", Path(sys.executable).resolve())
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(sys, "executable", str(ours))
    monkeypatch.setattr(sys, "prefix", str(ours.parent.parent))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv(RAY_JOB_VARIABLE, raising=False)
    return tmp_path


def test_the_interpreter_of_an_environment_that_is_not_active_is_named_by_its_path(place: Path, monkeypatch):
    assert command("sweep demo") == ".venv/bin/python -m orchestrator sweep demo"
    assert command() == ".venv/bin/python -m orchestrator"
    monkeypatch.chdir(place)
    assert interpreter() == "project/.venv/bin/python"
    monkeypatch.chdir("/")
    assert interpreter() == f"{place}/project/.venv/bin/python".removeprefix("/")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert interpreter() == f"{place}/project/.venv/bin/python"


def test_an_active_environment_needs_no_path(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert command("status") == "python -m orchestrator status"


def test_the_same_program_without_the_packages_is_another_interpreter(place: Path, monkeypatch):
    theirs = link(place / "usr" / "bin", "python", Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(theirs.parent))
    assert interpreter() == ".venv/bin/python"
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)  # no virtual environment: `python` has the packages
    assert interpreter() == "python"


def test_python3_beside_python_is_named_by_the_shorter_name(place: Path, monkeypatch: pytest.MonkeyPatch):
    longer = link(Path(sys.executable).parent, "python3", Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(longer))
    assert interpreter() == ".venv/bin/python"


def test_a_path_with_a_blank_is_quoted(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(place / "my project" / "python"))
    assert command("ui") == f"'{place}/my project/python' -m orchestrator ui"


def test_a_job_of_a_cluster_prints_what_works_on_other_machines(place: Path, monkeypatch):
    monkeypatch.setenv(RAY_JOB_VARIABLE, "{}")
    assert interpreter() == "python"


def test_a_printed_command_runs_in_a_shell_that_knows_nothing(tmp_path: Path):
    env = BARE | {"CLIP_ORCHESTRATOR_HOME": str(tmp_path / "home")}
    asked = f"cd {PROJECT} && {sys.executable} -m orchestrator status"
    said = subprocess.run(["sh", "-c", asked], env=env, capture_output=True, text=True)
    assert said.returncode == 2
    printed = said.stderr.rpartition("start one: ")[2].strip()
    assert printed.endswith("-m orchestrator sweep")
    again = subprocess.run(
        ["sh", "-c", f"{printed} --help"], env=env, cwd=PROJECT, capture_output=True, text=True
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert "--resume" in again.stdout
