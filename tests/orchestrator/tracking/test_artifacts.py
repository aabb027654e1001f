"""The files of MLflow runs with several findings per image."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.storage.events import Evaluated, SweepStarted
from orchestrator.storage.ledger import SweepState, TrialState
from orchestrator.tracking.mlflow_artifacts import stage
from orchestrator.tracking.mlflow_runs import RunKey
from trainables.config import TrialConfig, to_flat

ROWS = [
    {"split": "val", "system": "probe_joint", "finding": name, "num_positive": positive, "num_negative": 40,
     "num_unknown": 3, "auroc": auroc, "average_precision": auroc}
    for name, positive, auroc in (("Edema", 12, 0.75), ("Hernia", 0, None))
]  # fmt: skip


@pytest.fixture
def state() -> SweepState:
    trial = TrialState("key", "arm", "lora rank=8", to_flat(TrialConfig()), status="finished")
    trial.workdir, trial.results = "trials/key", {"results/findings.parquet": "00"}
    trial.metrics = {"val/probe_joint/macro_auroc": 0.75}
    tested = [{**row, "split": "test", "arm": arm} for row in ROWS for arm in ("arm", None)]
    started = SweepStarted(name="s", task="multilabel", findings=["Edema", "Hernia"])
    return SweepState("s", started=started, trials={"key": trial}, evaluated=Evaluated(findings=tested))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (folder := tmp_path / "staged").mkdir()
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_trial_has_its_findings_as_two_tables_and_no_confusion_matrix(
    state: SweepState, tmp_path: Path, target: Path
):
    results = tmp_path / "trials" / "key" / "results"
    results.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), results / "findings.parquet")
    stage(RunKey("key"), state, tmp_path, target)
    assert {path.name for path in target.iterdir()} == {"config.json", "findings.csv", "findings.parquet"}
    assert pq.read_table(target / "findings.parquet").to_pylist() == ROWS
    edema, hernia = read_csv(target / "findings.csv")
    assert (edema["finding"], edema["num_positive"], edema["auroc"]) == ("Edema", "12", "0.75")
    assert (hernia["num_positive"], hernia["auroc"]) == ("0", "")


def test_a_sweep_has_the_findings_of_test_with_the_names_of_its_trials(
    state: SweepState, tmp_path: Path, target: Path
):
    stage(RunKey(), state, tmp_path, target)
    names = {path.name for path in target.iterdir()}
    assert {"findings.csv", "findings.parquet", "leaderboard.html", "evaluated.json"} <= names
    assert not any("confusion" in name for name in names)
    rows = read_csv(target / "findings.csv")
    assert [(row["name"], row["finding"]) for row in rows] == [
        ("lora rank=8", "Edema"), ("", "Edema"), ("lora rank=8", "Hernia"), ("", "Hernia"),
    ]  # fmt: skip
    assert json.loads((target / "leaderboard.json").read_text())["task"] == "multilabel"


def test_a_sweep_of_classes_has_no_table_of_findings(state: SweepState, tmp_path: Path, target: Path):
    state.started, state.evaluated = SweepStarted(name="s"), Evaluated()
    stage(RunKey(), state, tmp_path, target)
    assert not list(target.glob("findings*"))
