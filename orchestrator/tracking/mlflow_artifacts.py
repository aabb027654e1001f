"""Writes the files of an MLflow run: a trial's results or a sweep's leaderboard. Removes private values."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import hmac
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from orchestrator.results.html_report import write_html
from orchestrator.results.leaderboard import leaderboard
from orchestrator.storage.ledger import SweepState, TrialState
from orchestrator.storage.paths import hmac_key
from orchestrator.tracking.mlflow_runs import RunKey, private
from trainables.artifacts import MANIFEST, file_sha256

FINDINGS = "findings.parquet"
"""The scores of each finding. The file has no image id and no patient id."""
logger = logging.getLogger(__name__)


def stage(key: RunKey, state: SweepState, sweep_folder: Path, target: Path) -> None:
    """Writes the files of a run into the folder `target`."""
    if key.trial_key:
        stage_trial(state.trials[key.trial_key], sweep_folder, target)
    else:
        stage_sweep(state, target)


def stage_sweep(state: SweepState, target: Path) -> None:
    """Writes the search space, and the test results, the leaderboard and the findings if they exist."""
    _write_json(target / "space.json", private(state.started.space))
    if state.evaluated is not None:
        _write_json(target / "evaluated.json", private(vars(state.evaluated)))
        if state.evaluated.findings:
            names = {trial.arm_key: trial.name for trial in state.trials.values()}
            rows = [{"name": names.get(row["arm"])} | row for row in state.evaluated.findings]
            write_findings(arrow.Table.from_pylist(rows), target)
    # Messages of failures quote paths and image ids, so only the causes are written.
    silent = {key: replace(trial, message=None) for key, trial in state.trials.items()}
    board = leaderboard(replace(state, trials=silent))
    if board.rows:
        (target / "leaderboard.json").write_text(board.to_json())
        write_html(board, target / "leaderboard.html")


def stage_trial(trial: TrialState, sweep_folder: Path, target: Path) -> None:
    """Writes a trial's configuration, predictions and adapter, and its confusion matrix or its findings."""
    _write_json(target / "config.json", private(trial.config))
    results = sweep_folder / trial.workdir
    for name in trial.results:
        path, inside = results / name, Path(name).relative_to("results")
        if not path.is_file():
            logger.warning("%s of trial %s is missing, so it is not logged", name, trial.name)
        elif inside.name == "confusion.json":
            shutil.copy(path, target / inside.name)
        elif inside.name == FINDINGS:
            write_findings(parquet.read_table(path), target)
        elif inside.name == "predictions.parquet":
            stage_predictions(path, target / inside.name)
        elif inside.parts[0] == "adapter":
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / inside)
    if (target / "adapter").is_dir():
        strip_places(target / "adapter")


def write_findings(table: arrow.Table, target: Path) -> None:
    """Writes the scores of each finding as `findings.parquet`, and as a CSV file that MLflow shows."""
    parquet.write_table(table, target / FINDINGS)
    arrow_csv.write_csv(table, target / FINDINGS.replace(".parquet", ".csv"))


def stage_predictions(source: Path, target: Path) -> None:
    """Copies a table of predictions. Replaces each image id by its HMAC-SHA256 with this home's key."""
    table = parquet.read_table(source, columns=["image_id", "split", "system", "scores"])
    key = hmac_key()
    hidden = [hmac.digest(key, str(name).encode(), "sha256").hex() for name in table["image_id"].to_pylist()]
    parquet.write_table(table.set_column(0, "image_hmac", arrow.array(hidden)), target)


def strip_places(adapter: Path) -> None:
    """Removes paths, such as PEFT's path of the base model, from an adapter's JSON files and manifest."""
    for path in adapter.rglob("*.json"):
        values = json.loads(path.read_text())
        if path.name != MANIFEST and (stripped := private(values)) != values:
            _write_json(path, stripped)
    if (manifest := adapter / MANIFEST).is_file():
        values = json.loads(manifest.read_text())
        values["files"] = {
            name: file_sha256(adapter / name) for name in values["files"] if (adapter / name).is_file()
        }
        _write_json(manifest, values)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1))
