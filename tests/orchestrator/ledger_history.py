"""The ledger of a sweep written step by step, and what MLflow holds of it."""

import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.events import (
    Evaluated,
    OpenedTest,
    SweepFinished,
    SweepStarted,
    TrialFailed,
    TrialFinished,
    TrialPlaced,
    TrialReported,
)
from orchestrator.storage.ledger import Ledger
from trainables.artifacts import atomic_directory
from trainables.config import from_flat, to_flat

SECRET_ROOT = "/hospital-7f3a/archive"


PATIENT = "patient-0042"


OBJECTIVE = "val/probe_joint/macro_auroc"


KEYS = {"frozen": "trial-0", "rank=4": "trial-1", "rank=16": "trial-2", "rank=64": "trial-3"}


def start(ledger: Ledger, name: str, experiment: str = "phantom/test") -> None:
    ledger.append(SweepStarted(name=name, experiment=experiment, objective=OBJECTIVE, seed=0,
        space={"fixed": {"data.root": SECRET_ROOT}, "search": {"searcher": "grid", "num_trials": 3}},
        space_fingerprint="5face", git={"commit": "c0ffee", "is_dirty": False}, versions={"torch": "2.14.1"},
        hardware={"num_cpus": 2}, data_fingerprint="da7a", encoder_fingerprint="e4c0",
        data_notes=["3 images excluded by bad.txt"], by_image=True,
    ))  # fmt: skip


def place(ledger: Ledger, name: str, attempt: int = 1, **overrides: Any) -> None:
    config = to_flat(from_flat({"data.root": SECRET_ROOT, "data.manifest": f"{PATIENT}.csv"} | overrides))
    ledger.append(TrialPlaced(trial_key=KEYS[name], arm_key=f"arm-{KEYS[name]}", name=name, config=config,
        attempt=attempt, is_baseline=name == "frozen",
    ))  # fmt: skip


def report(ledger: Ledger, name: str, epochs: range, attempt: int = 1) -> None:
    for epoch in epochs:
        losses = {f"train/step_loss_{i}": 2 / (2 * epoch + i) for i in range(2)}
        metrics = {"train/epoch": epoch, "train/loss": 1 / epoch, OBJECTIVE: 0.5 + epoch / 10} | losses
        ledger.append(TrialReported(trial_key=KEYS[name], attempt=attempt, epoch=epoch, metrics=metrics))


def end(ledger: Ledger, folder: Path, name: str, score: float) -> None:
    workdir = folder / "trials" / KEYS[name]
    metrics = {OBJECTIVE: score, f"{OBJECTIVE}_low": score - 0.1, f"{OBJECTIVE}_high": score + 0.1}
    ledger.append(TrialFinished(trial_key=KEYS[name], attempt=1, metrics=metrics, seconds=2.5,
        workdir=f"trials/{KEYS[name]}", results=write_results(workdir), stopped_early=False,
    ))  # fmt: skip


def write_results(workdir: Path) -> dict[str, str]:
    results = workdir / "results"
    with atomic_directory(results / "adapter") as adapter:
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": f"{SECRET_ROOT}/clip"})
        )
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (results / "confusion.json").write_text(
        json.dumps({"probe_joint": {"classes": ["a", "b"], "val": [[3, 1], [0, 4]]}})
    )
    pq.write_table(pa.Table.from_pylist(probe_path()), results / "probe_path.parquet")
    rows = [
        {"image_id": f"{PATIENT}-view{i}", "split": split, "system": "probe_joint", "scores": [0.25, 0.75]}
        for i, split in enumerate(("val", "val", "test"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), results / "predictions.parquet")
    files = sorted(path for path in results.rglob("*") if path.is_file())
    return {
        path.relative_to(workdir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def probe_path() -> list[dict[str, Any]]:
    return [
        {"features": features, "l2": 10.0 ** (i - 3), "fit_index": i, "accuracy": 0.5 + i / 10,
         "macro_f1": 0.4, "macro_auroc": None if features == "pooled" and i == 0 else 0.8, "nll": 0.6,
         "is_chosen": i == 2}
        for features in ("joint", "pooled") for i in range(3)
    ]  # fmt: skip


def call(base_url: str, route: str, **query: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base_url}/api/2.0/mlflow/{route}", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def experiment_of(base_url: str, name: str) -> dict[str, Any]:
    query = urllib.parse.urlencode({"experiment_name": name})
    url = f"{base_url}/api/2.0/mlflow/experiments/get-by-name?{query}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["experiment"]


def runs_of(base_url: str, sweep: str, experiment: str = "phantom/test") -> list[dict[str, Any]]:
    found = call(
        base_url, "runs/search", experiment_ids=[experiment_of(base_url, experiment)["experiment_id"]],
        max_results=1000,
        filter=f"tags.`orchestrator.sweep` = '{sweep}'",
    )  # fmt: skip
    return [
        {
            "id": run["info"]["run_id"], "name": run["info"]["run_name"], "status": run["info"]["status"],
            "params": {item["key"]: item["value"] for item in run["data"].get("params", [])},
            "tags": {item["key"]: item["value"] for item in run["data"].get("tags", [])},
            "metrics": sorted(item["key"] for item in run["data"].get("metrics", [])),
        }
        for run in found.get("runs", [])
    ]  # fmt: skip


def by_kind(runs: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in runs if run["tags"]["orchestrator.kind"] == kind}


def history(base_url: str, run_id: str, key: str) -> list[tuple[int, float]]:
    query = urllib.parse.urlencode({"run_id": run_id, "metric_key": key, "max_results": 1000})
    with urllib.request.urlopen(
        f"{base_url}/api/2.0/mlflow/metrics/get-history?{query}", timeout=30
    ) as answer:
        return [(int(point["step"]), point["value"]) for point in json.load(answer).get("metrics", [])]


def finish_demo(ledger: Ledger, folder: Path) -> None:
    end(ledger, folder, "frozen", 0.7)
    place(ledger, "rank=4", **{"lora.rank": 4})
    place(ledger, "rank=16", **{"lora.rank": 16})
    report(ledger, "rank=4", range(1, 4))
    end(ledger, folder, "rank=4", 0.8)
    report(ledger, "rank=16", range(1, 3))
    place(ledger, "rank=16", attempt=2, **{"lora.rank": 16, "execution.micro_batch_size": 8})
    report(ledger, "rank=16", range(1, 4), attempt=2)  # as after a crash: the same values again
    end(ledger, folder, "rank=16", 0.9)
    place(ledger, "rank=64", **{"lora.rank": 64})
    message = f"{SECRET_ROOT}/{PATIENT}.png: 0 bytes"
    ledger.append(TrialFailed(trial_key=KEYS["rank=64"], attempt=1, cause="user_error", message=message))
    ledger.append(OpenedTest(trial_keys=[KEYS["rank=16"]], reason="end of the sweep"))
    ledger.append(
        Evaluated(arms={KEYS["rank=16"]: {"test/probe_joint/accuracy": 0.75}}, paired=[], controls={})
    )
    ledger.append(SweepFinished(exit_code=3, seconds=60.0))


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
