"""The tree of MLflow runs that a ledger leaves, to be compared."""

from pathlib import Path
from typing import Any

from ledger_history import end, history, place, report, runs_of, start

from orchestrator.storage.events import SweepFinished, TrialFailed
from orchestrator.storage.ledger import Ledger
from orchestrator.tracking.mlflow_server import Server

PARTS = ("start", "middle", "end")


def write(part: str, ledger: Ledger, folder: Path, experiment: str = "phantom/test") -> None:
    """A third of a sweep: its start and a baseline; a trial with its epochs; one that fails, and the end."""
    if part == "start":
        start(ledger, folder.name, experiment)
        place(ledger, "frozen", **{"adapt.method": "none"})
        end(ledger, folder, "frozen", 0.7)
    elif part == "middle":
        place(ledger, "rank=4", **{"lora.rank": 4})
        report(ledger, "rank=4", range(1, 4))
        end(ledger, folder, "rank=4", 0.8)
    else:
        place(ledger, "rank=64", **{"lora.rank": 64})
        ledger.append(
            TrialFailed(
                trial_key="trial-3",
                attempt=1,
                cause="non_finite",
                message="loss is nan at step 3",
            )
        )
        ledger.append(SweepFinished(exit_code=3, seconds=60.0))


def tree(server: Server, sweep: str, experiment: str = "phantom/test") -> dict[tuple[str, str], Any]:
    """All that MLflow holds of a sweep, but for names that differ from sweep to sweep."""
    runs = runs_of(server.base_url, sweep, experiment)
    names = {run["id"]: run["tags"]["orchestrator.kind"] for run in runs}
    own = ("orchestrator.sweep", "orchestrator.sweep_id", "mlflow.parentRunId", "mlflow.runName")
    found = {
        (run["tags"]["orchestrator.kind"], run["name"].replace(sweep, "")): {
            "status": run["status"],
            "params": run["params"],
            "tags": {key: value for key, value in run["tags"].items() if key not in own},
            "parent": names.get(run["tags"].get("mlflow.parentRunId", "")),
            "points": {key: history(server.base_url, run["id"], key) for key in run["metrics"]},
        }
        for run in runs
    }
    assert len(found) == len(runs)
    return found
