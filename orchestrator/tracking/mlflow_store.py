"""Writes the runs of `mlflow_runs` to an MLflow store or server. Only the replay process imports this."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from orchestrator.storage.paths import artifact_root
from orchestrator.tracking.mlflow_artifacts import stage
from orchestrator.tracking.mlflow_runs import (
    NOTICE,
    Run,
    RunKey,
    RunsLost,
    SweepRuns,
    experiment_names,
)
from orchestrator.tracking.store_upgrade import prepared

logger = logging.getLogger(__name__)

METRICS_PER_BATCH = 800  # MLflow allows 1,000 values per batch, of which 100 parameters and 100 tags
RUNS_PER_PAGE = 1000
SEQ = "orchestrator.seq"  # tag: the last ledger entry that the run includes

PARENT = "mlflow.parentRunId"  # tag: the run above this one


@dataclass
class Known:
    """The state of a run in MLflow."""

    run_id: str
    status: str = "RUNNING"
    seq: int = -1  # the last ledger entry that the run includes
    tags: dict[str, str] = field(default_factory=dict[str, str])


class Store:
    """One MLflow store or server. The class uses a client, not the global state of MLflow's fluent API.

    Raises:
        ClusterError: the database has another schema than the installed MLflow, and must not be migrated.
    """

    def __init__(self, uri: str) -> None:
        with prepared(uri) as said:
            self.client: Any = MlflowClient(tracking_uri=uri)  # creates the tables of a new database
        if said:
            logger.warning("%s%s", NOTICE, said)
        self.is_server = uri.startswith(("http://", "https://", "databricks"))
        self.experiment_id: str | None = None  # None before `open`, and after an error
        self.known: dict[RunKey, Known] = {}

    def open(self, runs: SweepRuns) -> None:
        """Finds or creates the experiment, and finds the existing runs of this sweep.

        Raises:
            RunsLost: someone has deleted runs that this process wrote.
        """
        wanted = runs.state.started.experiment
        active, free_name = self._experiments(wanted)
        known: dict[RunKey, Known] = {}
        experiment = active[0] if active else None
        for place in reversed(active):  # newest first: an earlier one may have been restored meanwhile
            known = self._find_runs(place.experiment_id, runs.sweep_id)
            if known:
                experiment = place
                break
        if experiment is None:
            files = None if self.is_server else artifact_root()
            self.experiment_id = self.client.create_experiment(free_name, artifact_location=files)
        else:
            self.experiment_id = experiment.experiment_id
        if (name := experiment.name if experiment else free_name) != wanted:
            said = f"experiment '{wanted}' was deleted in MLflow and stays deleted; this sweep is in '{name}'"
            logger.warning("%s%s", NOTICE, said)
        lost, self.known = self.known.keys() - known.keys(), known
        if lost:
            raise RunsLost(f"{len(lost)} runs were deleted in MLflow; they are written again")

    def write(self, run: Run, runs: SweepRuns) -> None:
        """Writes a changed run to MLflow, and removes it from `runs.changed`."""
        if self.experiment_id is None:
            self.open(runs)
        known = self.known.get(run.key) or self._create(run, runs)
        if known.seq < run.seq or known.status != run.status:
            self._log_values(known, run)
            self._set_status(known, run)
            self._log_files(known, run, runs)
            known.seq = run.seq
        del runs.changed[run.key]

    def _experiments(self, name: str) -> tuple[list[Any], str]:
        """Returns the experiments of a name that are not deleted, and the first name that is not in use.

        A deleted experiment keeps its name and accepts no runs. It is not restored: a person deleted it.
        """
        active: list[Any] = []
        for candidate in experiment_names(name):
            found = self.client.get_experiment_by_name(candidate)
            if found is None:
                return active, candidate
            if found.lifecycle_stage == "active":
                active.append(found)
        raise AssertionError("names never end")

    def _find_runs(self, experiment_id: str, sweep_id: str) -> dict[RunKey, Known]:
        """Returns the runs of a sweep. Deletes duplicates, which arise if an answer of MLflow is lost."""
        known: dict[RunKey, Known] = {}
        for found in self._search(experiment_id, f"tags.`orchestrator.sweep_id` = '{sweep_id}'"):
            key, new = _recognise(found)
            if (old := known.get(key)) is not None:
                old, new = sorted((old, new), key=lambda each: each.seq)
                self.client.delete_run(old.run_id)
            known[key] = new
        return known

    def _search(self, experiment_id: str, condition: str) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [experiment_id], condition, max_results=RUNS_PER_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, run: Run, runs: SweepRuns) -> Known:
        tags = run.tags | {
            "orchestrator.kind": "probe" if run.key.probe else "trial" if run.key.trial_key else "sweep",
            "orchestrator.sweep": runs.state.name,
            "orchestrator.sweep_id": runs.sweep_id,
        }
        if run.key.trial_key:
            tags["orchestrator.trial_key"] = run.key.trial_key
        if run.key.probe:
            tags["orchestrator.probe"] = run.key.probe
        if run.parent is not None:
            parent = self.known.get(run.parent.key) or self._create(run.parent, runs)
            tags[PARENT] = parent.run_id
        created = self.client.create_run(
            self.experiment_id, start_time=run.started, tags=tags, run_name=run.name
        )
        for key, child in self.known.items():
            if key.parent == run.key:  # their parent was deleted in MLflow
                self.client.set_tag(child.run_id, PARENT, created.info.run_id)
        self.known[run.key] = Known(created.info.run_id, tags=tags)
        return self.known[run.key]

    def _log_values(self, known: Known, run: Run) -> None:
        """Logs points, parameters and tags. Logs the tag `SEQ` too, unless files follow.

        A probe run is written once. It needs no `SEQ`, because its status says that it is complete.
        """
        metrics = [Metric(p.key, p.value, p.milliseconds, p.step) for p in run.points if p.seq > known.seq]
        while len(metrics) > METRICS_PER_BATCH:
            self.client.log_batch(known.run_id, metrics=metrics[:METRICS_PER_BATCH])
            del metrics[:METRICS_PER_BATCH]
        tags = run.tags if run.key.probe or run.has_files else run.tags | {SEQ: str(run.seq)}
        new_tags = {key: value for key, value in tags.items() if known.tags.get(key) != value}
        self.client.log_batch(
            known.run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in run.params.items()] if known.seq < 0 else [],
            tags=[RunTag(key, value) for key, value in new_tags.items()],
        )
        known.tags = known.tags | new_tags
        run.points.clear()

    def _set_status(self, known: Known, run: Run) -> None:
        if known.status == run.status:
            return
        if run.status == "RUNNING":
            self.client.update_run(known.run_id, status="RUNNING")
        else:
            self.client.set_terminated(known.run_id, run.status, end_time=run.ended)
        known.status = run.status

    def _log_files(self, known: Known, run: Run, runs: SweepRuns) -> None:
        if not run.has_files:
            return
        with tempfile.TemporaryDirectory() as staged:
            stage(run.key, runs.state, runs.folder, Path(staged))
            self.client.log_artifacts(known.run_id, staged)
        self.client.set_tag(known.run_id, SEQ, str(run.seq))
        run.has_files = False


def _recognise(found: Any) -> tuple[RunKey, Known]:
    """Returns the key and the state of a run that exists in MLflow."""
    tags = found.data.tags
    key = RunKey(tags.get("orchestrator.trial_key", ""), tags.get("orchestrator.probe", ""))
    is_whole_probe = bool(key.probe) and found.info.status == "FINISHED"
    seq = sys.maxsize if is_whole_probe else int(tags.get(SEQ, -1))
    return key, Known(found.info.run_id, found.info.status, seq, tags)
