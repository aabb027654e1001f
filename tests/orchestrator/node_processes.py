"""Several Ray nodes on this machine, each with a home of its own."""

import subprocess
import sys
from pathlib import Path

from sweep_process import plain_environment

HERE = Path(__file__).parent


class Nodes:
    """A cluster whose head has no cores; `variables` let a driver join it."""

    def __init__(self, folder: Path):
        (folder / "token").write_text("0123456789abcdef" * 4)
        (folder / "token").chmod(0o600)
        self.variables = {
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        own = {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}", "CLIP_ORCHESTRATOR_HOME": str(folder / "head")}
        with (folder / "nodes.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "several_nodes.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=plain_environment() | self.variables | own,
                text=True,
            )
        self.address = self.process.stdout.readline().strip()

    def tell(self, verb: str, home: Path) -> None:
        self.process.stdin.write(f"{verb} {home}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.communicate(timeout=60)
