"""Commands as a user can type them: every command that a message prints is made here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in a job, whose output is read on another machine."""


def command(arguments: str = "") -> str:
    """Returns `python -m orchestrator ARGUMENTS` with an interpreter that has the packages."""
    return f"{interpreter()} -m orchestrator {arguments}".rstrip()


def interpreter() -> str:
    """Returns how the user's shell finds this interpreter: `python` where that is it, else its path."""
    here = Path(sys.executable)
    found = shutil.which("python")
    if RAY_JOB_VARIABLE in os.environ or (found and _is_this(Path(found), here)):
        return "python"
    # Links are not resolved: the python of a virtual environment is a link that knows its packages.
    is_below = here.is_relative_to(Path.cwd())
    return shlex.quote(str(here.relative_to(Path.cwd()) if is_below else here))


def _is_this(found: Path, here: Path) -> bool:
    """Whether two paths start the same interpreter with the same packages."""
    is_same_environment = found.parent == here.parent or sys.prefix == sys.base_prefix
    return is_same_environment and found.exists() and here.exists() and found.samefile(here)
