"""Runs the command line: `python -m orchestrator`, and the console script `orchestrator`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
INVALID = 2


def main() -> None:
    """Runs one command and exits with its status."""
    try:
        # Inside the function, so that a missing package becomes a message.
        from orchestrator.cluster.environment import secure_environment

        secure_environment()  # before anything can import Ray or MLflow
        from orchestrator.cli.app import execute  # after the environment is set

        status = execute()
    except ModuleNotFoundError as error:
        if not is_missing_package(error):
            raise
        print(f"error: {how_to_set_up(str(error.name))}", file=sys.stderr)
        status = INVALID
    sys.exit(status)


def is_missing_package(error: ModuleNotFoundError) -> bool:
    """Says whether an import failed because a package is not installed, not because our code is wrong."""
    package = (error.name or "").partition(".")[0]
    return package not in ("", "orchestrator", "trainables") and package not in sys.modules


def how_to_set_up(package: str) -> str:
    """Returns the command that installs the missing package."""
    lacks = f"this Python does not have the package '{package}'"
    if not (CHECKOUT / "Makefile").is_file():
        return f"{lacks}; install clip-orchestrator again, with its dependencies"
    place = "" if Path.cwd() == CHECKOUT else f"cd {CHECKOUT} && "
    setup = "" if (CHECKOUT / ".venv/.setup-done").is_file() else "make setup && "
    arguments = shlex.join(sys.argv[1:]) or "--help"
    return f"{lacks}; type: {place}{setup}.venv/bin/python -m orchestrator {arguments}"


if __name__ == "__main__":
    main()
