"""Runs one search space as a user does and keeps its leaderboard: command, machine, commit, date.

    python benchmarks/space.py demo
    python benchmarks/space.py xray3_cv --set data.root=$XRAY3_ROOT

It writes into `benchmarks/results/`; a file that came about otherwise says so under `written`.
The home is empty and temporary, so nothing is reused from an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from orchestrator.cli.options import find_space
from orchestrator.search.space_file import load_space
from trainables.config.fields import DEFAULTS

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    result = run(arguments.space, arguments.set)
    RESULTS.mkdir(exist_ok=True)
    machine = f"{os.cpu_count()}-core-{platform.machine()}"
    name = f"{Path(arguments.space).stem}_{machine}_{date.today().isoformat()}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['wall_seconds']:.0f} s; benchmarks/results/{name}")


def run(space: str, settings: list[str]) -> dict[str, object]:
    """Returns the leaderboard of a fresh sweep and what it was measured on."""
    command = ["-m", "orchestrator", "sweep", space, "--json"]
    for setting in settings:
        command += ["--set", setting]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"CLIP_ORCHESTRATOR_HOME": home}
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - began
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # A place on this machine is nobody's business.
    shown = [part if not part.startswith("data.root=") else "data.root=$XRAY3_ROOT" for part in command]
    return {
        "command": "python " + " ".join(shown),
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
        "commit": commit,
        "seeds": seeds(space, settings),
        "wall_seconds": round(seconds, 1),
        "leaderboard": json.loads(done.stdout),
    }


def seeds(space: str, settings: list[str]) -> dict[str, object]:
    """Returns what was drawn from: the searcher, the data, and training unless it is repeated over seeds."""
    read = load_space(find_space(space), settings)
    fixed = {name: read.fixed.get(name, DEFAULTS[name]) for name in ("data.seed", "seed")}
    return {"search.seed": read.search.seed, **fixed}


if __name__ == "__main__":
    main()
