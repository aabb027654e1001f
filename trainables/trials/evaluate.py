"""The trainable `evaluate`: reads the test labels once, and scores the predictions of one run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from trainables.artifacts import file_sha256, write_atomically
from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.datasets import load_dataset
from trainables.scoring.judge_arms import evaluate_arms, open_cases
from trainables.scoring.predictions import FILE, read_predictions
from trainables.scoring.tasks import TASKS
from trainables.scoring.test_predictions import (
    ScoredTrial,
)

RECORD = "evaluation.json"


def evaluate(config: TrialConfig, context: RunContext) -> Metrics:
    """Scores the predictions of one finished run on test, and records when the labels were opened.

    The same predictions are scored only once: later calls read the record `workdir/results/evaluation.json`.
    """
    predictions = context.workdir / "results" / FILE
    read_predictions(predictions)  # raises an error, before any label is read, if there are none
    path = predictions.with_name(RECORD)
    record = json.loads(path.read_text()) if path.is_file() else {"opened": [], "predictions": None}
    if record["predictions"] != file_sha256(predictions):
        record = {
            "opened": [*record["opened"], datetime.now(UTC).isoformat()],
            "predictions": file_sha256(predictions),
            "metrics": judge_run(config, predictions),
        }
        write_atomically(path, json.dumps(record, indent=1))
    return record["metrics"]


def judge_run(config: TrialConfig, predictions: Path) -> dict[str, float]:
    """Reads the test labels, and returns the metrics of one run's systems and controls."""
    dataset = load_dataset(config.data, with_test_labels=True)
    trial = ScoredTrial("run", "run", config.seed, config.data.fold, predictions)
    class_pairs = TASKS[dataset.task].class_pairs(dataset)
    result = evaluate_arms([trial], open_cases(dataset), class_pairs=class_pairs)
    return result.arms["run"] | result.controls
