"""The leaderboard of a sweep as plain values: ranked rows, controls, and trials without a score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from orchestrator.results.arms import Estimate
from orchestrator.search.constraints import Breach, Limit
from trainables.config import Task
from trainables.scoring.metric_names import read_key


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference on test. `p` is corrected for all differences of the column (Holm)."""

    p: float | None = None  # None: the ledger is of an earlier version, without p-values


DIFFERENCES = ("over_frozen", "over_self", "over_first")
"""The columns of a row that hold a `Difference` on test, in the headline metric of the task."""


@dataclass(frozen=True)
class Row:
    """One system of one arm. An arm is one trial, or one configuration with several seeds and folds."""

    name: str
    arm_key: str
    trial_keys: tuple[str, ...]
    is_baseline: bool
    method: str
    lora_rank: int | None
    lora_modules: str | None
    classifier: str | None  # the architecture of a baseline
    system: str
    objective: Estimate  # this system's own value of the objective's metric, on val
    num_seeds: int | None  # seeds of the arm; None: the arm has no seed, or the sweep repeats no seeds
    breaches: tuple[Breach, ...]  # the violated constraints of an infeasible row
    second: float | None  # the value of `also_minimise`
    accuracy: Estimate | None  # on val; None for findings
    test_accuracy: Estimate | None
    test_auroc: Estimate | None
    over_frozen: Difference | None  # minus the strongest frozen probe
    over_self: Difference | None  # minus the same system with the encoder frozen
    over_first: Difference | None  # minus the row that ranked first on val
    error_cut: Estimate | None  # `over_frozen` as a fraction of the errors of the strongest frozen probe
    is_reference: bool  # this row is the strongest frozen probe
    num_trainable: int | None
    seconds: float
    stopped_early: bool
    differs: bool | None = None  # whether it differs from the best row over the same seeds; None: not known
    is_on_front: bool = False  # no feasible row is at least as good in both objectives and better in one
    is_reused: bool = False  # a trial took embeddings or weights from the store, so `seconds` is too low
    average_precision: Estimate | None = None  # mean over findings, on val; None for classes
    test_average_precision: Estimate | None = None

    @property
    def is_tested(self) -> bool:
        """Whether the row has a value on test."""
        return self.test_accuracy is not None or self.test_auroc is not None


@dataclass(frozen=True)
class Control:
    """The scores of a control: a classifier that sees no lungs."""

    system: str
    objective: Estimate | None
    accuracy: Estimate | None
    test_accuracy: Estimate | None
    test_auroc: Estimate | None
    average_precision: Estimate | None = None
    test_average_precision: Estimate | None = None

    @property
    def is_tested(self) -> bool:
        """Whether the control has a value on test."""
        return self.test_accuracy is not None or self.test_auroc is not None


@dataclass(frozen=True)
class FindingColumn:
    """A system whose AUROC of each finding is shown. `rank` is None for a control."""

    arm_key: str | None
    system: str
    rank: int | None


@dataclass(frozen=True)
class FindingRow:
    """One finding on test: its numbers of images, and its AUROC by each system of the table."""

    finding: str
    is_averaged: bool  # macro averages cover it; No Finding is not covered
    num_positive: int
    num_negative: int
    num_unknown: int
    aurocs: tuple[Estimate | None, ...]  # None: not defined, because no image is positive or none negative
    is_reversed: tuple[bool, ...]  # the AUROC is a zero-shot one and so low that its prompts are reversed


@dataclass(frozen=True)
class FindingTable:
    """The AUROC of each finding on test, for the systems that matter most."""

    columns: tuple[FindingColumn, ...]
    rows: tuple[FindingRow, ...]


@dataclass(frozen=True)
class Absent:
    """A trial without a score, and the reason."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """The results of a sweep. `rows` are ranked: confirmed arms, then others, then infeasible ones."""

    sweep: str
    objective: str
    also_minimise: str | None
    constraints: dict[str, Limit]
    num_seeds: int  # seeds of an arm that has all of them; 1: no arm is confirmed or repeated
    is_confirmed: bool  # only the best arms run on all seeds; the first seed selects them
    rows: tuple[Row, ...]
    controls: tuple[Control, ...]
    absent: tuple[Absent, ...]
    test_opened: str | None  # time when the test labels were opened, ISO 8601; None: not opened
    shortcut: str | None  # a sentence about a control that scores nearly as well as a probe
    notes: tuple[str, ...]  # results left out of the evaluation, and images seen in an encoder's training
    is_finished: bool
    data_notes: tuple[str, ...] = ()  # what a reader must know about the data
    by_image: bool = False  # the data have no patient ids, so intervals are by image
    task: Task = "multiclass"
    findings: tuple[str, ...] = ()  # the findings that macro averages cover; empty for classes
    finding_table: FindingTable | None = None  # None: the test labels are not opened, or no findings

    @property
    def metric(self) -> str:
        """The objective's metric, by which every system is ranked."""
        return read_key(self.objective)[2]

    @property
    def of_intervals(self) -> str:
        """The words after the title of a table with intervals that are not by patient; else empty."""
        return ", intervals by image" if self.by_image else ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the leaderboard as JSON-like values."""
        values = TypeAdapter(Leaderboard).dump_python(self, mode="json")
        rows = [{"rank": rank} | row for rank, row in enumerate(values["rows"], start=1)]
        return values | {"rows": rows}

    def to_json(self) -> str:
        """Returns the leaderboard as JSON."""
        return json.dumps(self.to_dict(), indent=1)
