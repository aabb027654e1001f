"""The events of a sweep, one class for each. The fields of an event are the keys of its line in the ledger.

A new field needs a default, because ledgers of earlier versions lack it. Never rename a field or an event.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from trainables.config import Task
from trainables.scoring.metric_names import DEFAULT_OBJECTIVE


@dataclass(frozen=True)
class Event:
    """An event of a sweep."""


@dataclass(frozen=True, kw_only=True)
class SweepStarted(Event):
    """A driver started or resumed the sweep, with these inputs."""

    name: str
    experiment: str = ""  # name of the MLflow experiment
    space: dict[str, Any] = field(default_factory=dict[str, Any])  # the search space, as in its file
    space_fingerprint: str | None = None
    objective: str = DEFAULT_OBJECTIVE  # ranks trials; higher is better
    num_trials: int | None = None  # planned trials, without repeats on other seeds; None: not recorded
    num_to_confirm: int = 0  # trials that repeat the best arms on other seeds
    code_fingerprint: str | None = None
    git: dict[str, Any] | str | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    hardware: dict[str, Any] = field(default_factory=dict[str, Any])
    data_fingerprint: str | None = None
    encoder_fingerprint: str | None = None
    seed: int | None = None
    plan_fingerprint: str | None = None  # of the plan file that the sweep was started with
    storage: str | None = None  # URI
    data_notes: list[str] = field(default_factory=list[str])  # what a reader must know about the data
    by_image: bool = False  # the data have no patient ids, so intervals are by image
    task: Task = "multiclass"
    findings: list[str] = field(default_factory=list[str])  # of a multi-label task; macro averages cover them


@dataclass(frozen=True, kw_only=True)
class TrialPlaced(Event):
    """An attempt of a trial was handed to a process."""

    trial_key: str
    arm_key: str
    name: str
    config: dict[str, Any]  # dotted keys
    attempt: int
    is_baseline: bool = False
    confirms: bool = False  # repeats an arm on another seed
    data_fingerprint: str | None = None  # None: not recorded
    model_fingerprint: str | None = None  # None: the weights were not on this machine
    captioner_fingerprint: str | None = None  # None: weights not on this machine, or no captioner
    words_fingerprint: str | None = None  # None: not recorded, or the trial reads no words


@dataclass(frozen=True, kw_only=True)
class TrialReported(Event):
    """A trial reported the metrics of an epoch."""

    trial_key: str
    attempt: int
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrialWarned(Event):
    """Something went wrong in a trial, and the trial continued."""

    trial_key: str
    attempt: int
    message: str


@dataclass(frozen=True, kw_only=True)
class TrialFinished(Event):
    """A trial finished with results, at its end or because a scheduler stopped it early."""

    trial_key: str
    attempt: int
    metrics: dict[str, float]
    seconds: float
    workdir: str  # relative to the sweep's folder
    results: dict[str, str]  # file relative to `workdir` → SHA-256
    stopped_early: bool


@dataclass(frozen=True, kw_only=True)
class TrialFailed(Event):
    """An attempt of a trial failed. If `is_retried` is true, another attempt follows."""

    trial_key: str
    attempt: int
    cause: str
    message: str
    is_retried: bool = False


@dataclass(frozen=True, kw_only=True)
class OpenedTest(Event):
    """The driver is about to read the test labels for these trials."""

    trial_keys: list[str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """The test results, with the fields of `trainables.scoring.judge_arms.EvaluationResult`."""

    arms: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    pooled: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    paired: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    controls: dict[str, float] = field(default_factory=dict[str, float])
    reference: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list[str])
    first: dict[str, str] | None = None  # arm and system of the best row on val
    findings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # of a multi-label task


@dataclass(frozen=True, kw_only=True)
class SweepFinished(Event):
    """The driver of the sweep ended."""

    exit_code: int
    seconds: float
    is_cut_short: bool = False  # some trials were not run


EVENTS: dict[str, type[Event]] = {
    "sweep_started": SweepStarted,
    "trial_placed": TrialPlaced,
    "trial_reported": TrialReported,
    "trial_warned": TrialWarned,
    "trial_finished": TrialFinished,
    "trial_failed": TrialFailed,
    "test_opened": OpenedTest,
    "evaluated": Evaluated,
    "sweep_finished": SweepFinished,
}
"""The name of each event in the ledger."""
NAMES: dict[type[Event], str] = {event: name for name, event in EVENTS.items()}


def read_event(name: str, payload: dict[str, Any]) -> Event | None:
    """Returns an event of a ledger, or None if only a later version knows this event.

    Raises:
        TypeError: a field is missing; the message names the field.
    """
    if (event := EVENTS.get(name)) is None:
        return None
    known = {field.name for field in fields(event)}
    return event(**{key: value for key, value in payload.items() if key in known})
