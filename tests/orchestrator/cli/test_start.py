"""How the program starts: without its packages, for its version, and what it prints first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import __main__, __version__
from orchestrator.cli import options
from orchestrator.cli.app import execute

PROJECT = Path(__file__).resolve().parents[3]
BARE = [sys.executable, "-S", "-m", "orchestrator"]  # -S: an interpreter without any package


def start(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_a_python_without_the_packages_says_what_to_type(tmp_path: Path) -> None:
    copied = shutil.copytree(PROJECT / "orchestrator", tmp_path / "code" / "orchestrator").parent
    shutil.copytree(PROJECT / "trainables", copied / "trainables")
    (copied / "Makefile").touch()
    inside = start(*BARE, "sweep", "my space.yaml", cwd=copied)
    assert (inside.returncode, inside.stdout) == (2, "")
    assert inside.stderr == (
        "error: this Python does not have the package 'pydantic'; type: "
        "make setup && .venv/bin/python -m orchestrator sweep 'my space.yaml'\n"
    )
    outside = start(*BARE, cwd=tmp_path, PYTHONPATH=str(copied))
    assert f"type: cd {copied} && make setup && .venv/bin/python -m orchestrator --help" in outside.stderr
    (copied / ".venv").mkdir()
    (copied / ".venv" / ".setup-done").touch()
    assert "type: .venv/bin/python -m orchestrator sweep" in start(*BARE, "sweep", cwd=copied).stderr
    (copied / "Makefile").unlink()
    assert "install clip-orchestrator again" in start(*BARE, cwd=copied).stderr


def test_the_printed_command_runs_where_there_is_an_environment() -> None:
    if not (PROJECT / ".venv/.setup-done").is_file():
        pytest.skip("the project's own environment is not set up")
    said = start(*BARE, "doctor", "--help", cwd=PROJECT)
    assert said.returncode == 2
    printed = said.stderr.partition("type: ")[2].strip()
    again = start("sh", "-c", printed, cwd=PROJECT)
    assert (again.returncode, again.stderr) == (0, "")
    assert "Check this machine" in again.stdout


def test_a_mistake_of_our_own_is_no_missing_package() -> None:
    for name in ("orchestrator.nothing", "trainables.nothing", "json.nothing", None):
        assert not __main__.is_missing_package(ModuleNotFoundError(name=name))
    assert __main__.is_missing_package(ModuleNotFoundError(name="not_there.at_all"))


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"clip-orchestrator {__version__}\n"


def test_the_first_line_comes_before_anything_slow(tmp_path: Path) -> None:
    """In processor time, which other users of this machine do not stretch."""
    env = os.environ | {"CLIP_ORCHESTRATOR_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "orchestrator", "sweep", "--plan", "--no-timing"]
    with subprocess.Popen(
        command, cwd=PROJECT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "planning …\n"
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 1
        process.communicate()
        assert process.returncode == 0


def test_a_terminal_shows_a_moving_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(options, "err", terminal)
    with options.doing("reading"):
        time.sleep(0.2)
    shown = terminal.file.getvalue()
    assert "reading …" in shown
    assert "\x1b[2K" in shown  # the line is erased


@pytest.mark.slow
def test_the_installed_package_works_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build writes into its folder
    kept = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "tests", "build")
    shutil.copytree(PROJECT, source, ignore=kept)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"clip_orchestrator-{__version__}-")
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    command = [sys.executable, "-m", "orchestrator", "sweep", "--plan", "--no-timing"]
    home = str(tmp_path / "home")
    done = start(*command, cwd=empty, PYTHONPATH=str(target), CLIP_ORCHESTRATOR_HOME=home)
    assert done.returncode == 0, done.stderr
    assert "Nothing was started." in done.stdout
    unknown = start(*command, "dmo", cwd=empty, PYTHONPATH=str(target), CLIP_ORCHESTRATOR_HOME=home)
    assert "did you mean 'demo'?" in unknown.stderr
    asked = "import search_spaces; print(*search_spaces.__path__)"
    where = start(sys.executable, "-c", asked, cwd=empty, PYTHONPATH=str(target))
    assert where.stdout.startswith(str(target))
