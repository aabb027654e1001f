"""The ledger of a sweep, and the state of the sweep that follows from it.

The ledger consists of JSON lines with checksums. Lines are only appended, by one writer. A line is
`{"v":1,"seq":0,"time":"…","type":"…", …fields of the event, "sha":"…"}`. `sha` is the first 16 hex digits of
the SHA-256 of the line without `sha`. `seq` has no gaps. The files are `ledger/segment-00000.jsonl`, …; only
the last file grows. A last line without a newline is ignored: a crash interrupted its writing.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

from orchestrator.storage.driver_lock import hold_driver_lock
from orchestrator.storage.events import (
    NAMES,
    Evaluated,
    Event,
    OpenedTest,
    SweepFinished,
    SweepStarted,
    TrialFailed,
    TrialFinished,
    TrialPlaced,
    TrialReported,
    read_event,
)
from trainables.errors import DataError
from trainables.scoring.metric_names import own_key

SCHEMA = 1
_SEGMENT_BYTES = 4 * 2**20
_SHA_BYTES = len(',"sha":"0123456789abcdef"}')

TrialStatus = Literal["placed", "running", "finished", "failed", "unavailable"]


@dataclass(frozen=True)
class Entry:
    """One line of a ledger."""

    seq: int
    time: str  # ISO 8601, UTC
    event: Event | None  # None: an event of a later version


class LedgerReader:
    """Reader of a ledger, from its first entry. Each `poll` returns the new entries."""

    def __init__(self, sweep_folder: Path):
        self.folder = sweep_folder / "ledger"
        self.next_seq = 0
        self.segment = 0  # the file of `offset` and `line`
        self.offset = 0
        self.line = 0

    def poll(self) -> list[Entry]:
        """Returns the entries written since the last call, up to the last newline.

        Raises:
            DataError: a line is damaged, missing or of a newer version; the message names the line.
        """
        entries: list[Entry] = []
        num_segments = len(list(self.folder.glob("segment-*.jsonl")))  # counted first: a writer may add one
        while self.segment < num_segments:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                *lines, torn = file.read().split(b"\n")
            for line in lines:
                entries.append(self._parse(line))
                self.offset += len(line) + 1
                self.line += 1
            if self.segment + 1 == num_segments:
                break
            if torn:  # a writer cuts off an incomplete line before it adds a segment
                raise self._damaged("the line is incomplete, and a later segment exists")
            self.segment, self.offset, self.line = self.segment + 1, 0, 0
        return entries

    @property
    def path(self) -> Path:
        """The path of the segment that is being read."""
        return self.folder / f"segment-{self.segment:05d}.jsonl"

    def _parse(self, line: bytes) -> Entry:
        if _checksum(line[:-_SHA_BYTES] + b"}") != line[-_SHA_BYTES:]:
            raise self._damaged("its checksum does not match")
        values = json.loads(line)
        if values["v"] != SCHEMA:
            raise self._damaged(f"it has schema {values['v']}, but this version reads {SCHEMA}; update it")
        if values["seq"] != self.next_seq:
            raise self._damaged(f"it is entry {values['seq']}, but entry {self.next_seq} was expected")
        self.next_seq += 1
        try:
            return Entry(values["seq"], values["time"], read_event(values["type"], values))
        except TypeError as error:
            raise self._damaged(f"it is incomplete ({error})") from error

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"ledger {self.path}, line {self.line + 1}: {what}. The file was changed after it was written: "
            "restore it from a backup, or start a new sweep"
        )


class Ledger:
    """The only writer of a sweep's ledger. It holds the driver lock and removes an incomplete last line.

    Raises:
        ClusterError: another process is writing the ledger.
        DataError: a line is damaged.
    """

    def __init__(self, sweep_folder: Path, *, segment_bytes: int = _SEGMENT_BYTES):
        self._segment_bytes = segment_bytes
        self._one_at_a_time = threading.Lock()
        reader = LedgerReader(sweep_folder)
        self._lock = hold_driver_lock(sweep_folder)
        try:
            reader.poll()
            self._next_seq, self._segment = reader.next_seq, reader.segment
            self._folder = reader.folder
            self._file = self._open(reader.path)
            os.ftruncate(self._file, reader.offset)
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, event: Event) -> Entry:
        """Writes an event to disk, and returns its entry.

        Raises:
            OSError: the disk is full or fails. The ledger is unchanged.
            ValueError: a number of the event is not finite.
        """
        with self._one_at_a_time:
            size = os.fstat(self._file).st_size
            if size >= self._segment_bytes:
                self._segment, size = self._segment + 1, 0
                os.close(self._file)
                self._file = self._open(self._folder / f"segment-{self._segment:05d}.jsonl")
            entry = Entry(self._next_seq, datetime.now(UTC).isoformat(), event)
            try:
                self._write(_to_line(entry))
                self._next_seq += 1
            except BaseException:  # also an interrupt: no part of the line may stay
                os.ftruncate(self._file, size)
                self._next_seq = entry.seq
                raise
            return entry

    def _write(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            raise OSError("the disk accepted only part of a line")
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the ledger and releases the lock. May be called twice."""
        with self._one_at_a_time:
            if self._file >= 0:
                os.close(self._file)
                os.close(self._lock)
                self._file = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # so that a new segment survives a crash
        os.close(folder)
        return descriptor


Report = tuple[int, int, dict[str, float]]
"""A report of a trial: (attempt, epoch, metrics)."""

Failure = tuple[int, str, str]
"""A failed attempt: (attempt, cause, message)."""

Opening = tuple[str, OpenedTest]
"""The time at which the test labels were opened (ISO 8601), and the event with the trials."""


class Inputs(NamedTuple):
    """The fingerprints of an attempt's inputs; see `Identity`."""

    data: str
    model: str | None
    captioner: str | None = None
    words: str | None = None  # also None if not recorded


@dataclass
class TrialState:
    """The state of one trial, over all its attempts."""

    trial_key: str
    arm_key: str
    name: str
    config: dict[str, Any]  # dotted keys
    is_baseline: bool = False
    confirms: bool = False  # repeats an arm on another seed
    status: TrialStatus = "placed"
    attempts: int = 0
    history: list[Report] = field(default_factory=list[Report])
    metrics: dict[str, float] = field(default_factory=dict[str, float])  # final, or last reported
    results: dict[str, str] = field(default_factory=dict[str, str])  # file relative to `workdir` → SHA-256
    workdir: str = ""  # relative to the sweep's folder
    seconds: float = 0.0
    stopped_early: bool = False
    cause: str | None = None
    message: str | None = None
    failures: list[Failure] = field(default_factory=list[Failure])  # one for each failed attempt
    inputs: list[Inputs] = field(default_factory=list[Inputs])  # one for each attempt

    def own_key(self, key: str) -> str:
        """Returns the metric key of this trial that corresponds to a key of the search space."""
        return own_key(key, self.config)

    def value(self, key: str) -> float | None:
        """Returns the newest value of an objective, a constraint or a cost, or None if none is reported."""
        return self.metrics.get(self.own_key(key))


_NOT_STARTED = SweepStarted(name="")


@dataclass
class SweepState:
    """The state of a sweep after the entries that were applied."""

    name: str
    began: str = ""  # time when the first driver started: ISO 8601, UTC; empty: no driver started
    opened: SweepStarted = _NOT_STARTED  # written by the first driver
    started: SweepStarted = _NOT_STARTED  # written by the newest driver
    trials: dict[str, TrialState] = field(default_factory=dict[str, TrialState])
    test_opened: list[Opening] = field(default_factory=list[Opening])
    evaluated: Evaluated | None = None
    finished: SweepFinished | None = None
    next_seq: int = 0

    @property
    def is_complete(self) -> bool:
        """True if the newest driver reached the end of the sweep. Trials may have failed."""
        end = self.finished
        return end is not None and end.exit_code in (0, 3) and not end.is_cut_short

    def apply(self, entry: Entry) -> None:
        """Updates the state by one entry."""
        self.next_seq = entry.seq + 1
        match entry.event:
            case SweepStarted() as event:
                if not self.began:
                    self.opened, self.began = event, entry.time
                self.started, self.finished = event, None
            case TrialPlaced() as event:
                self._place(event)
            case TrialReported() as event:
                trial = self.trials[event.trial_key]
                trial.status, trial.metrics = "running", trial.metrics | event.metrics
                trial.history.append((event.attempt, event.epoch, event.metrics))
            case TrialFinished() as event:
                trial = self.trials[event.trial_key]
                trial.status, trial.metrics = "finished", event.metrics
                trial.seconds, trial.workdir = event.seconds, event.workdir
                trial.results, trial.stopped_early = event.results, event.stopped_early
            case TrialFailed() as event:
                self._fail(event)
            case OpenedTest() as event:
                self.test_opened.append((entry.time, event))
            case Evaluated() as event:
                self.evaluated = event
            case SweepFinished() as event:
                self.finished = event
            case _:  # an event without effect on the state, or of a later version
                pass

    def _fail(self, event: TrialFailed) -> None:
        trial = self.trials[event.trial_key]
        trial.failures.append((event.attempt, event.cause, event.message))
        if event.is_retried:
            trial.status = "placed"  # the next attempt follows
            return
        trial.cause, trial.message = event.cause, event.message
        trial.status = "unavailable" if trial.cause == "unavailable" else "failed"

    def _place(self, event: TrialPlaced) -> None:
        key = event.trial_key
        if not key or key.startswith("/") or ".." in key.split("/") or "\\" in key or "\0" in key:
            raise DataError(f"ledger of '{self.name}': trial key {key!r} is a path outside its folder")
        if key not in self.trials:
            self.trials[key] = TrialState(
                key, event.arm_key, event.name, event.config, event.is_baseline, event.confirms
            )
        trial = self.trials[key]
        trial.status, trial.attempts = "placed", event.attempt
        trial.cause = trial.message = None
        if event.data_fingerprint is not None:
            weights = event.model_fingerprint, event.captioner_fingerprint
            trial.inputs.append(Inputs(event.data_fingerprint, *weights, event.words_fingerprint))


def read_ledger(sweep_folder: Path) -> SweepState:
    """Returns the state of a sweep from its ledger, even while a driver writes the ledger.

    Raises:
        DataError: the sweep does not exist (the message suggests the nearest name), or a line is damaged.
    """
    if not (sweep_folder / "ledger").is_dir():
        raise no_such_sweep(sweep_folder)
    state = SweepState(sweep_folder.name)
    for entry in LedgerReader(sweep_folder).poll():
        state.apply(entry)
    return state


def no_such_sweep(sweep_folder: Path) -> DataError:
    """Returns the error for a sweep that is not on this machine. The message suggests the nearest name."""
    others = [path.parent.name for path in sweep_folder.parent.glob("*/ledger")]
    near = difflib.get_close_matches(sweep_folder.name, others, n=1, cutoff=0.3)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return DataError(f"no sweep '{sweep_folder.name}' in {sweep_folder.parent}{hint}")


def _to_line(entry: Entry) -> bytes:
    assert entry.event is not None
    head = {"v": SCHEMA, "seq": entry.seq, "time": entry.time, "type": NAMES[type(entry.event)]}
    values = head | vars(entry.event)
    body = json.dumps(values, separators=(",", ":"), allow_nan=False, default=_plain).encode()
    return body[:-1] + _checksum(body) + b"\n"


def _checksum(body: bytes) -> bytes:
    return b',"sha":"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}'


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if hasattr(value, "item"):  # a NumPy scalar
        return value.item()
    raise TypeError(f"the ledger cannot store a {type(value).__name__}")
