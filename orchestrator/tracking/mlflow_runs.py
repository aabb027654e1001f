"""Turns a sweep's ledger into MLflow runs: sweep → trial → probe strength. `mlflow_store` writes the runs.

The same ledger always gives the same runs, points and timestamps, so a second replay adds nothing. Private
values are removed: paths, image ids, patient ids, and the messages of failures, which quote paths and ids.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.results.arms import best_arm, over_trials, terms
from orchestrator.results.captions import BY_IMAGE, data_caption
from orchestrator.results.leaderboard import opened_metrics
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
from orchestrator.storage.ledger import Entry, SweepState, TrialState
from trainables.artifacts import fingerprint
from trainables.config import flatten, from_flat, science
from trainables.scoring.metric_names import METRICS, interval_keys, metric_key, probe_name

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
NOTICE = "notice: "
"""Prefix of the log lines of a replay that the user sees."""
NOTE = "mlflow.note.content"  # tag: the description that MLflow shows above a run
_PLACES = frozenset({"root", "manifest"})  # settings that are paths; the data fingerprint identifies the data
_FINGERPRINTS = ("data_fingerprint", "encoder_fingerprint", "space_fingerprint")
_TAGGED = ("task", "git", "versions", "hardware", "seed", "objective", *_FINGERPRINTS)
_STEP_LOSS = re.compile(r"train/step_loss_(\d+)")


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    step: int
    milliseconds: int  # time of the ledger entry, since the epoch
    seq: int  # number of the ledger entry


class RunKey(NamedTuple):
    """The identity of a run within its sweep. Both fields are empty for the sweep's own run."""

    trial_key: str = ""
    probe: str = ""  # "joint/07": the eighth fit on joint features

    @property
    def parent(self) -> RunKey | None:
        """The key of the run above this one; None for the sweep's own run."""
        return RunKey(self.trial_key) if self.probe else RunKey() if self.trial_key else None


@dataclass
class Run:
    """The intended state of one MLflow run. `points` has the points that are not yet written."""

    key: RunKey
    name: str
    parent: Run | None
    started: int  # milliseconds since the epoch
    params: dict[str, str] = field(default_factory=dict[str, str])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    points: list[Point] = field(default_factory=list[Point])
    status: RunStatus = "RUNNING"
    ended: int | None = None
    seq: int = -1  # number of the last ledger entry that changed this run
    has_files: bool = False  # `mlflow_artifacts.stage` has files to log
    last_epoch: int = 0


class RunsLost(Exception):  # an event, not an error
    """Runs that were written are gone, so their points must be read from the ledger again."""


class SweepRuns:
    """The runs of one sweep after the entries that were applied. `changed` has the runs to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = SweepState(folder.name)
        self.sweep_id = ""  # unlike the name, it differs between homes and between days
        self.sweep: Run | None = None
        self.trials: dict[str, Run] = {}
        self.changed: dict[RunKey, Run] = {}
        self.last = Entry(-1, "1970-01-01T00:00:00+00:00", None)

    def apply(self, entry: Entry) -> None:
        """Updates the runs by one ledger entry."""
        self.last = entry
        self.state.apply(entry)
        match entry.event:
            case SweepStarted():
                self._start(entry)
            case TrialPlaced() as event:
                self._place(event, entry)
            case TrialReported() as event:
                self._report(event, entry)
            case TrialFinished() as event:
                self._finish(event, entry)
            case TrialFailed() as event:
                self._fail(event, entry)
            case OpenedTest():
                self._touch(self.sweep, entry).tags["orchestrator.test_opened"] = entry.time
            case Evaluated() as event:
                self._evaluate(event, entry)
            case SweepFinished() as event:
                self._end(event, entry)
            case _:  # an event that MLflow does not show, or of a later version
                pass

    def close(self) -> None:
        """Marks running runs as interrupted, after the driver has ended. A later attempt reopens its run."""
        for run in [self.sweep, *self.trials.values()]:
            if run is not None and run.status == "RUNNING":
                self._end_run(run, "KILLED", "interrupted", self.last)

    def _touch(self, run: Run | None, entry: Entry) -> Run:
        assert run is not None, f"ledger entry {entry.seq} before sweep_started"
        run.seq = entry.seq
        self.changed[run.key] = run
        return run

    def _begin_run(self, run: Run, entry: Entry) -> Run:
        run.status, run.ended = "RUNNING", None
        return self._touch(run, entry)

    def _end_run(self, run: Run, status: RunStatus, cause: str, entry: Entry) -> Run:
        run.status, run.ended = status, milliseconds(entry)
        run.tags["orchestrator.cause"] = cause
        return self._touch(run, entry)

    def _start(self, entry: Entry) -> None:
        if self.sweep is None:
            self.sweep_id = fingerprint("sweep", self.state.name, entry.time)
            search = private(self.state.started.space.get("search", {}))
            params = texts(flatten({"search": search}))
            self.sweep = Run(RunKey(), self.state.name, None, milliseconds(entry), params, has_files=True)
        self._begin_run(self.sweep, entry).tags |= about(self.state.started)
        if NOTE not in self.sweep.tags:  # a resumed sweep keeps the description with its best arm
            self._describe("")

    def _describe(self, best: str) -> None:
        """Sets the description of the sweep's own run: the best arm, and the notes about the data."""
        assert self.sweep is not None
        by_image = f"Intervals are {BY_IMAGE}." if self.state.started.by_image else ""
        said = " ".join(filter(None, [best, *data_caption(self.state.started.data_notes), by_image]))
        if said:
            self.sweep.tags[NOTE] = said

    def _place(self, event: TrialPlaced, entry: Entry) -> None:
        key, trial = event.trial_key, self.state.trials[event.trial_key]
        if key not in self.trials:
            settings = parameters(trial.config)
            self.trials[key] = Run(RunKey(key), trial.name, self.sweep, milliseconds(entry), settings)
        run = self._begin_run(self.trials[key], entry)
        run.tags |= about(self.state.started) | about_trial(trial, event.config)

    def _report(self, event: TrialReported, entry: Entry) -> None:
        """Adds the points of an epoch. An epoch that is repeated after a crash adds nothing."""
        run, epoch = self.trials[event.trial_key], event.epoch
        if epoch > run.last_epoch:
            run.last_epoch = epoch
            self._touch(run, entry).points += points_of_epoch(event.metrics, epoch, entry)

    def _finish(self, event: TrialFinished, entry: Entry) -> None:
        trial = self.state.trials[event.trial_key]
        run = self._end_run(self.trials[trial.trial_key], "FINISHED", "none", entry)
        reported = trial.history[-1][2] if trial.history else {}
        new = {key: value for key, value in trial.metrics.items() if reported.get(key) != value}
        final = {key: value for key, value in new.items() if not _STEP_LOSS.fullmatch(key)}
        run.points += points(final | {"perf/trial_seconds": trial.seconds}, run.last_epoch, entry)
        run.tags["orchestrator.stopped_early"] = str(trial.stopped_early).lower()
        run.has_files = True
        for probe in probe_runs(trial, run, self.folder / trial.workdir, entry):
            self._touch(probe, entry)
        self._roll_up(entry)

    def _fail(self, event: TrialFailed, entry: Entry) -> None:
        if event.is_retried:  # the next attempt continues the run
            run = self._touch(self.trials[event.trial_key], entry)
            run.tags["orchestrator.retried_after"] = event.cause
            return
        self._end_run(self.trials[event.trial_key], "FAILED", event.cause, entry)
        self._roll_up(entry)

    def _evaluate(self, event: Evaluated, entry: Entry) -> None:
        for key, metrics in event.arms.items():
            run = self._touch(self.trials[key], entry)
            run.points += points(metrics, run.last_epoch, entry)
        run = self._touch(self.sweep, entry)
        run.has_files = True
        if best := best_arm(self.state):
            run.points += points(opened_metrics(self.state, best), len(self.state.trials), entry)

    def _roll_up(self, entry: Entry) -> None:
        """Adds the best arm so far to the sweep's own run. The step is the number of ended trials."""
        run = self._touch(self.sweep, entry)
        status = [trial.status for trial in self.state.trials.values()]
        counts = {"sweep/num_finished": status.count("finished"), "sweep/num_failed": status.count("failed")}
        step = sum(counts.values())
        run.points += points(counts, step, entry)
        agreed = terms(self.state)
        if best := best_arm(self.state):
            goal = best[0].own_key(agreed.objective)
            score = over_trials(best, goal, agreed)
            assert score is not None
            found = dict(zip((goal, *interval_keys(goal)), (score.value, score.low, score.high), strict=True))
            rolled = {key: value for key, value in found.items() if value is not None}
            run.points += points(rolled, step, entry)
            over = f" (mean over {score.num_seeds} seeds)" if score.num_seeds else ""
            over = over or (f" (mean of {len(best)} trials)" if len(best) > 1 else "")
            run.tags |= {
                "orchestrator.best_trial": best[0].trial_key,
                "orchestrator.best_trial_name": best[0].name,
            }
            self._describe(
                f"Best on val: **{best[0].name}**, {goal} {score.value:.4f}{over}. "
                "Intervals, test and controls: `leaderboard.html` among the artifacts."
            )

    def _end(self, event: SweepFinished, entry: Entry) -> None:
        statuses = {trial.status for trial in self.state.trials.values()}
        run = self._touch(self.sweep, entry)
        run.has_files = True
        run.tags["orchestrator.exit_code"] = str(event.exit_code)
        if statuses & {"placed", "running"}:
            self.close()
        elif event.is_cut_short:
            self._end_run(run, "KILLED", "cut short", entry)
        elif "finished" in statuses:
            self._end_run(run, "FINISHED", "none", entry)
        else:
            self._end_run(run, "FAILED", "no trial finished", entry)


def experiment_names(name: str) -> Iterator[str]:
    """Yields the names that the experiment of a sweep may have: NAME, and NAME-2, … if NAME was deleted."""
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"


def milliseconds(entry: Entry) -> int:
    """Returns the time of an entry in milliseconds since the epoch, MLflow's unit."""
    return round(datetime.fromisoformat(entry.time).timestamp() * 1000)


def points(metrics: Mapping[str, float], step: int, entry: Entry) -> list[Point]:
    """Returns one point for each metric."""
    return [Point(key, float(value), step, milliseconds(entry), entry.seq) for key, value in metrics.items()]


def points_of_epoch(metrics: Mapping[str, float], epoch: int, entry: Entry) -> list[Point]:
    """Returns the points of a report, by epoch. The points of `train/step_loss_<i>` are by optimiser step."""
    losses = {int(match[1]): value for key, value in metrics.items() if (match := _STEP_LOSS.fullmatch(key))}
    rest = {key: value for key, value in metrics.items() if not _STEP_LOSS.fullmatch(key)}
    rest.pop("train/epoch", None)
    found, first = points(rest, epoch, entry), (epoch - 1) * len(losses) + 1
    for step, loss in losses.items():
        found += points({"train/step_loss": loss}, first + step, entry)
    return found


def probe_runs(trial: TrialState, parent: Run, workdir: Path, entry: Entry) -> list[Run]:
    """Returns one run for each strength of the probe, from the trial's `probe_path.parquet`."""
    path = workdir / "results" / "probe_path.parquet"
    if not path.is_file():
        return []
    runs: list[Run] = []
    rows = parquet.read_table(path).to_pylist()  # pyright: ignore
    for row in cast("list[dict[str, Any]]", rows):
        system, l2 = probe_name(row["features"]), row["l2"]
        known = [name for name in METRICS if row.get(name) is not None]
        metrics = {metric_key("val", system, name): row[name] for name in known}
        run = Run(
            key=RunKey(trial.trial_key, f"{row['features']}/{row['fit_index']:02d}"),
            name=f"{trial.name} · {row['features']} λ={l2:.2g}",
            parent=parent,
            started=milliseconds(entry),
            params={"probe.features": row["features"], "probe.l2": repr(l2)},
            tags={"orchestrator.is_chosen": str(row["is_chosen"]).lower()},
            points=points(metrics, row["fit_index"], entry),
            status="FINISHED",
            ended=milliseconds(entry),
        )
        runs.append(run)
    return runs


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns a trial's MLflow parameters: the settings that can change its result.

    The settings `execution.*` become tags: they may differ between attempts, but MLflow parameters are fixed.
    """
    return texts(flatten(private(science(from_flat(config)))))


def about(started: SweepStarted) -> dict[str, str]:
    """Returns the tags of a sweep's inputs: code, versions, data, encoder, machine."""
    facts = private({key: value for key in _TAGGED if (value := getattr(started, key)) is not None})
    tags = texts(flatten({"orchestrator": facts})) | {"mlflow.source.name": "orchestrator"}
    if started.data_notes:
        tags["orchestrator.data_notes"] = "; ".join(started.data_notes)
    if started.by_image:
        tags["orchestrator.by_image"] = "true"
    if commit := tags.get("orchestrator.git.commit") or tags.get("orchestrator.git"):
        tags["mlflow.source.git.commit"] = commit
    return tags


def about_trial(trial: TrialState, config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags of one trial. `config` is the configuration of its newest attempt."""
    execution = {key: value for key, value in config.items() if key.startswith("execution.")}
    tags = {
        "method": config.get("adapt.method"),
        "seed": config.get("seed"),
        "arm_key": trial.arm_key,
        "is_baseline": trial.is_baseline,
        "attempts": trial.attempts,
    }
    return texts(flatten({"orchestrator": tags | execution}))


def private(values: Any) -> Any:
    """Returns JSON-like values without paths: drops `root` and `manifest`; shortens paths to file names."""
    if isinstance(values, Mapping):
        items = cast("Mapping[str, Any]", values).items()
        return {key: private(value) for key, value in items if key.rpartition(".")[2] not in _PLACES}
    if isinstance(values, list | tuple):
        return [private(value) for value in cast("list[Any]", values)]
    if isinstance(values, str) and re.match(r"(/|~|\.{1,2}/|file:|[A-Za-z]:\\)", values):
        return re.split(r"[/\\]", values.rstrip("/\\"))[-1]
    if isinstance(values, str) and re.match(r"(openai|open_clip|dual):", values):  # encoders of local files
        return re.sub(r"(?<=[:@+])(/|~|\.{1,2}/)[^@+]*/", "", values)
    return values


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns all values as text, for MLflow."""
    return {k: v if isinstance(v, str) else "none" if v is None else json.dumps(v) for k, v in values.items()}
