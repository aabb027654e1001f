"""The truth of a sweep: append-only, checksummed JSON lines with one writer, and what replaying them gives.

A line is `{"v":1,"seq":0,"time":"…","type":"…", …payload, "sha":"…"}`; `sha` is the first 16 hex digits of
the SHA-256 of the line without it. `seq` has no gaps. Lines lie in `ledger/segment-00000.jsonl`, …; only the
last segment grows. A line counts once its newline is written: what a crash tore off never happened.
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
from trainables.errors import DataError

SCHEMA = 1
_SEGMENT_BYTES = 4 * 2**20
_SHA_BYTES = len(',"sha":"0123456789abcdef"}')

TrialStatus = Literal["placed", "running", "finished", "failed", "unavailable"]


@dataclass(frozen=True)
class Entry:
    """One line. `payload` is what the caller of `append` gave."""

    seq: int
    time: str  # ISO 8601, UTC
    type: str
    payload: dict[str, Any]


class LedgerReader:
    """Reads a ledger from its start, in as many turns as wanted: each `poll` returns what is new."""

    def __init__(self, sweep_folder: Path):
        self.folder = sweep_folder / "ledger"
        self.next_seq = 0
        self.segment = 0  # where `offset` and `line` point into
        self.offset = 0
        self.line = 0

    def poll(self) -> list[Entry]:
        """Returns the entries written since the last call; a line without its newline is left for the next.

        Raises:
            DataError: a line that was changed, cut out or written by a newer version, with its place.
        """
        entries: list[Entry] = []
        num_segments = len(
            list(self.folder.glob("segment-*.jsonl"))
        )  # before reading: a writer may be ahead of us
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
            if torn:  # a writer mends a torn tail before it opens the next segment
                raise self._damaged("the line has no end, and a later segment exists")
            self.segment, self.offset, self.line = self.segment + 1, 0, 0
        return entries

    @property
    def path(self) -> Path:
        """The segment being read."""
        return self.folder / f"segment-{self.segment:05d}.jsonl"

    def _parse(self, line: bytes) -> Entry:
        if _checksum(line[:-_SHA_BYTES] + b"}") != line[-_SHA_BYTES:]:
            raise self._damaged("its checksum does not match")
        values = json.loads(line)
        if values["v"] != SCHEMA:
            raise self._damaged(
                f"it has schema {values['v']}, this version reads {SCHEMA}; update the orchestrator"
            )
        if values["seq"] != self.next_seq:
            raise self._damaged(f"entry {values['seq']} stands where entry {self.next_seq} belongs")
        self.next_seq += 1
        payload = {
            key: value for key, value in values.items() if key not in ("v", "seq", "time", "type", "sha")
        }
        return Entry(values["seq"], values["time"], values["type"], payload)

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"ledger {self.path}, line {self.line + 1}: {what}. The file was changed after it was written: "
            "restore it from a backup, or start a new sweep"
        )


class Ledger:
    """The one writer of a sweep's ledger; holds a lock that the kernel drops with the process.

    Raises:
        ClusterError: another process is writing.
        DataError: an earlier line is damaged. A torn last line is cut off instead.
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

    def append(self, entry_type: str, /, **payload: Any) -> Entry:
        """Writes one entry, on disk when this returns, and returns it as a reader would see it.

        Raises:
            OSError: the disk refuses; the ledger is as it was before.
            ValueError: a value that is no finite number.
        """
        with self._one_at_a_time:
            size = os.fstat(self._file).st_size
            if size >= self._segment_bytes:
                self._segment, size = self._segment + 1, 0
                os.close(self._file)
                self._file = self._open(self._folder / f"segment-{self._segment:05d}.jsonl")
            entry = Entry(self._next_seq, datetime.now(UTC).isoformat(), entry_type, payload)
            try:
                self._write(_to_line(entry))
                self._next_seq += 1
            except BaseException:  # an interrupt too: a line that was not counted must not stay
                os.ftruncate(self._file, size)
                self._next_seq = entry.seq
                raise
            return entry

    def _write(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            raise OSError("the disk took only a part of a line")
        os.fsync(self._file)

    def close(self) -> None:
        """Lets another process write. Idempotent."""
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
        os.fsync(folder)  # the name of a new segment must survive too
        os.close(folder)
        return descriptor


Report = tuple[int, int, dict[str, float]]
"""What a trial said on its way: (attempt, epoch, metrics)."""

Failure = tuple[int, str, str]
"""How an attempt failed: (attempt, cause, message)."""


class Inputs(NamedTuple):
    """Fingerprints of what an attempt stood on; see `Identity`."""

    data: str
    model: str | None
    captioner: str | None = None


@dataclass
class TrialState:
    """What the ledger knows of one trial, over all its attempts."""

    trial_key: str
    arm_key: str
    name: str
    config: dict[str, Any]  # dotted keys
    is_baseline: bool = False
    confirms: bool = False  # an arm that was drawn, on another seed
    status: TrialStatus = "placed"
    attempts: int = 0
    history: list[Report] = field(default_factory=list[Report])
    metrics: dict[str, float] = field(default_factory=dict[str, float])  # final, or the last reported
    results: dict[str, str] = field(default_factory=dict[str, str])  # file relative to `workdir` → SHA-256
    workdir: str = ""  # relative to the sweep's folder
    seconds: float = 0.0
    stopped_early: bool = False
    cause: str | None = None
    message: str | None = None
    failures: list[Failure] = field(default_factory=list[Failure])  # also those that another attempt mended
    stood_on: list[Inputs] = field(default_factory=list[Inputs])  # of each attempt, as it was placed


@dataclass
class SweepState:
    """What replaying a ledger gives. `apply` one entry after another."""

    name: str
    began: str = ""  # when the first driver started: ISO 8601, UTC
    opened: dict[str, Any] = field(default_factory=dict[str, Any])  # what the first driver said
    started: dict[str, Any] = field(default_factory=dict[str, Any])  # what the newest one said
    trials: dict[str, TrialState] = field(default_factory=dict[str, TrialState])
    test_opened: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    evaluated: dict[str, Any] | None = None
    finished: dict[str, Any] | None = None
    next_seq: int = 0

    @property
    def is_complete(self) -> bool:
        """Says whether the newest driver went through to the end, with failed trials or without."""
        end = self.finished or {"exit_code": None}
        return end["exit_code"] in (0, 3) and not end.get("is_cut_short")

    def apply(self, entry: Entry) -> None:
        """Takes in one entry; types of a later minor version are passed over."""
        self.next_seq = entry.seq + 1
        payload = entry.payload
        match entry.type:
            case "sweep_started":
                self.opened, self.began = self.opened or payload, self.began or entry.time
                self.started, self.finished = payload, None
            case "trial_placed":
                self._place(payload)
            case "trial_reported":
                trial = self.trials[payload["trial_key"]]
                trial.status, trial.metrics = "running", trial.metrics | payload["metrics"]
                trial.history.append((payload["attempt"], payload["epoch"], payload["metrics"]))
            case "trial_finished":
                trial = self.trials[payload["trial_key"]]
                trial.status, trial.metrics = "finished", payload["metrics"]
                trial.seconds, trial.workdir = payload["seconds"], payload["workdir"]
                trial.results, trial.stopped_early = payload["results"], payload["stopped_early"]
            case "trial_failed":
                self._fail(payload)
            case "test_opened":
                self.test_opened.append({"time": entry.time} | payload)
            case "evaluated":
                self.evaluated = payload
            case "sweep_finished":
                self.finished = payload
            case _:
                pass

    def _fail(self, payload: dict[str, Any]) -> None:
        trial = self.trials[payload["trial_key"]]
        trial.failures.append((payload["attempt"], payload["cause"], payload["message"]))
        if payload.get("is_retried"):
            trial.status = "placed"  # its next attempt follows
            return
        trial.cause, trial.message = payload["cause"], payload["message"]
        trial.status = "unavailable" if trial.cause == "unavailable" else "failed"

    def _place(self, payload: dict[str, Any]) -> None:
        key = payload["trial_key"]
        if not key or key.startswith("/") or ".." in key.split("/") or "\\" in key or "\0" in key:
            raise DataError(f"ledger of '{self.name}': trial {key!r} leads out of its folder")
        if key not in self.trials:
            described = {name: payload[name] for name in ("arm_key", "name", "config", "is_baseline")}
            self.trials[key] = TrialState(key, **described, confirms=payload.get("confirms", False))
        trial = self.trials[key]
        trial.status, trial.attempts = "placed", payload["attempt"]
        trial.cause = trial.message = None
        if "data_fingerprint" in payload:  # ledgers of earlier versions can still be read
            data, model = payload["data_fingerprint"], payload["model_fingerprint"]
            trial.stood_on.append(Inputs(data, model, payload.get("captioner_fingerprint")))


def read_ledger(sweep_folder: Path) -> SweepState:
    """Replays a sweep's ledger. Safe while a writer is at work.

    Raises:
        DataError: no such sweep (offers the nearest name), or a damaged line, with its place.
    """
    if not (sweep_folder / "ledger").is_dir():
        raise no_such_sweep(sweep_folder)
    state = SweepState(sweep_folder.name)
    for entry in LedgerReader(sweep_folder).poll():
        state.apply(entry)
    return state


def no_such_sweep(sweep_folder: Path) -> DataError:
    """Returns the error for a sweep that is not on this machine, with the nearest name."""
    others = [path.parent.name for path in sweep_folder.parent.glob("*/ledger")]
    near = difflib.get_close_matches(sweep_folder.name, others, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return DataError(f"no sweep '{sweep_folder.name}' in {sweep_folder.parent}{hint}")


def _to_line(entry: Entry) -> bytes:
    head = {"v": SCHEMA, "seq": entry.seq, "time": entry.time, "type": entry.type}
    values = head | entry.payload
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
    raise TypeError(f"{type(value).__name__} has no form in the ledger")
