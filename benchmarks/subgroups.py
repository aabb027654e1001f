"""Scores a finished sweep again within groups of images: one view, one sex, one source.

    python benchmarks/subgroups.py nih_mini_cv-20261201-040000 --group all --group view=PA --group view=AP

Every system is scored on the test images of the group alone, with intervals by patient, and compared with the
strongest frozen probe on the same images. It reads the predictions that the sweep stored, and trains nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import provenance, write

from orchestrator.driver.open_test import PREDICTIONS, by_data
from orchestrator.results.arms import finished_arms
from orchestrator.storage.ledger import SweepState, TrialState, read_ledger
from orchestrator.storage.paths import sweep_folder
from trainables.artifacts import fingerprint
from trainables.config import Task, from_flat
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset, ImageRecord
from trainables.scoring.judge_arms import evaluate_arms, open_cases
from trainables.scoring.metric_names import CONTROLS, HEADLINE
from trainables.scoring.predictions import Scores, read_predictions, write_predictions
from trainables.scoring.test_predictions import Cases, ScoredTrial


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep")
    parser.add_argument("--group", action="append", required=True, help="all, or FIELD=VALUE of a record")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    state = read_ledger(sweep_folder(options.sweep))
    groups = {group: within(state, group) for group in options.group}
    result = provenance(__file__, sys.argv[1:], ["torch", "scikit-learn"])
    write(result | {"sweep": options.sweep, "groups": groups}, options.output)


def within(state: SweepState, group: str) -> list[dict[str, Any]]:
    """Returns one row for each arm and system, and for each control, on the images of a group."""
    trials = [t for arm in finished_arms(state) for t in arm if PREDICTIONS in t.results]
    rows: list[dict[str, Any]] = []
    for of_data in by_data(trials):
        rows += _of_data(state, of_data, group)
    return rows


def _of_data(state: SweepState, trials: list[TrialState], group: str) -> list[dict[str, Any]]:
    configs = {trial.trial_key: from_flat(trial.config) for trial in trials}
    folds = {config.data.fold: config.data for config in configs.values()}
    datasets = [load_dataset(data, with_test_labels=True) for data in folds.values()]
    cases, names = _cases(datasets, group), {trial.arm_key: trial.name for trial in trials}
    with tempfile.TemporaryDirectory() as folder:
        scored = [
            ScoredTrial(
                trial.trial_key,
                trial.arm_key,
                seed=configs[trial.trial_key].seed,
                fold=configs[trial.trial_key].data.fold,
                predictions=_restrict(state, trial, cases, Path(folder), datasets[0].task),
                is_frozen=configs[trial.trial_key].adapt.method == "none",
                encoder=fingerprint(configs[trial.trial_key].encoder),
            )
            for trial in trials
        ]
        found = evaluate_arms(scored, cases)
    metric, reference = HEADLINE[datasets[0].task], found.reference
    rows = [
        {"arm": names[arm], **_row(metrics, system, metric), "over_frozen": _over(found, arm, system, metric)}
        for arm, metrics in found.pooled.items()
        for system in dict.fromkeys(key.split("/")[1] for key in metrics)
    ]
    rows += [
        {"arm": None, **_row(found.controls, name, metric)}
        for name in CONTROLS
        if f"test/{name}/{metric}" in found.controls
    ]
    about = {"images": len(cases.targets), "patients": len(set(cases.patients.values()))}
    about |= {"metric": metric, "frozen": reference and names[reference["arm"]] + ": " + reference["system"]}
    return [about, *rows]


def _cases(datasets: list[Dataset], group: str) -> Cases:
    cases = open_cases(*datasets)
    records = {r.image_id: r for dataset in datasets for r in dataset.records}
    kept = [image_id for image_id in cases.targets if _is_in(records[image_id], group)]
    return replace(
        cases,
        targets={image_id: cases.targets[image_id] for image_id in kept},
        patients={image_id: cases.patients[image_id] for image_id in kept},
    )


def _is_in(record: ImageRecord, group: str) -> bool:
    name, _, value = group.partition("=")
    return group == "all" or getattr(record, name) == value


def _restrict(state: SweepState, trial: TrialState, cases: Cases, folder: Path, task: Task) -> Path:
    """Writes the predictions of a trial on the images of the group, and returns the file."""
    predictions = read_predictions(sweep_folder(state.name) / trial.workdir / PREDICTIONS, split="test")
    kept = {}
    for key, scored in predictions.items():
        here = np.array([image_id in cases.targets for image_id in scored.image_ids])
        kept[key] = Scores(scored.image_ids[here], scored.scores[here])
    path = folder / f"{trial.trial_key}.parquet"
    write_predictions(path, kept, task)
    return path


def _row(metrics: dict[str, float], system: str, metric: str) -> dict[str, Any]:
    key = f"test/{system}/{metric}"
    return {"system": system, "value": metrics.get(key), "low": metrics.get(f"{key}_low"),
            "high": metrics.get(f"{key}_high")}  # fmt: skip


def _over(found: Any, arm: str, system: str, metric: str) -> dict[str, float] | None:
    """Returns the paired difference to the strongest frozen probe."""
    if found.reference is None:
        return None
    pair = (arm, system, found.reference["arm"], found.reference["system"], metric)
    for row in found.paired:
        if (row["arm_a"], row["system_a"], row["arm_b"], row["system_b"], row["metric"]) == pair:
            return {"difference": row["difference"], "low": row["low"], "high": row["high"], "p": row["p"]}
    return None


if __name__ == "__main__":
    main()
