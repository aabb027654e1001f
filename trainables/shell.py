"""Builds the commands that messages print, so that a user can copy them into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable in a job. The output of a job is read on another machine."""


def command(arguments: str = "") -> str:
    """Returns `python -m orchestrator ARGUMENTS`, with a Python that has the packages."""
    return f"{interpreter()} -m orchestrator {arguments}".rstrip()


def interpreter() -> str:
    """Returns the command for this interpreter: `python` if the shell finds it as `python`, else its path."""
    here = _without_version(Path(sys.executable))
    found = shutil.which("python")
    if RAY_JOB_VARIABLE in os.environ or (found and _is_this(Path(found), here)):
        return "python"
    # Links are not resolved, because the Python of a virtual environment is a link.
    is_below = here.is_relative_to(Path.cwd())
    return shlex.quote(str(here.relative_to(Path.cwd()) if is_below else here))


def _without_version(here: Path) -> Path:
    """Returns `python` beside an interpreter named `python3` if both are the same file."""
    short = here.with_name("python")
    return short if short.exists() and here.exists() and short.samefile(here) else here


def _is_this(found: Path, here: Path) -> bool:
    """Returns whether two paths start the same interpreter with the same packages."""
    is_same_environment = found.parent == here.parent or sys.prefix == sys.base_prefix
    return is_same_environment and found.exists() and here.exists() and found.samefile(here)
