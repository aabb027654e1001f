"""`python -m orchestrator` and the console script."""

from __future__ import annotations

import sys

from orchestrator.cluster.environment import secure_environment

# Imports inside functions: the environment has to be set before anything imports Ray or MLflow.


def main() -> None:
    """Runs the command line and leaves with its status."""
    secure_environment()  # before anything can import Ray or MLflow
    from orchestrator.cli.app import execute

    sys.exit(execute())


if __name__ == "__main__":
    main()
