"""The events of a ledger, and the lines that they are written as."""

import hashlib
import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.storage.events import (
    EVENTS,
    NAMES,
    Evaluated,
    OpenedTest,
    SweepFinished,
    SweepStarted,
    TrialPlaced,
    TrialReported,
    TrialWarned,
    read_event,
)
from orchestrator.storage.ledger import Inputs, Ledger, LedgerReader, SweepState, read_ledger
from trainables.errors import DataError
from trainables.scoring.judge_arms import EvaluationResult

EARLIER = Path(__file__).with_name("ledger_of_an_earlier_version.jsonl")  # its first lines lack later fields


def ledger_with(folder: Path, *lines: bytes) -> Path:
    """A sweep whose ledger has these lines, in the file format as documented, without our writer."""
    (folder / "ledger").mkdir(parents=True)
    (folder / "ledger" / "segment-00000.jsonl").write_bytes(b"".join(lines))
    return folder


def line(seq: int, name: str, **payload: object) -> bytes:
    values = {"v": 1, "seq": seq, "time": "2026-01-01T00:00:00+00:00", "type": name} | payload
    body = json.dumps(values, separators=(",", ":")).encode()
    return body[:-1] + f',"sha":"{hashlib.sha256(body).hexdigest()[:16]}"}}\n'.encode()


def test_a_ledger_of_an_earlier_version_is_read(tmp_path: Path):
    state = read_ledger(ledger_with(tmp_path / "s", EARLIER.read_bytes()))
    assert state.started == SweepStarted(
        name="s", experiment="phantom/test", space={"name": "s"}, num_trials=2, seed=0
    )
    trial = state.trials["a"]
    assert (trial.status, trial.attempts, trial.is_baseline, trial.confirms) == ("finished", 2, False, False)
    assert trial.history == [(1, 1, {"train/epoch": 1, "train/loss": 0.5})]
    assert trial.failures == [(1, "crash", "killed")]
    assert trial.inputs == [Inputs("da7a", None, None)]  # of the second attempt: the first has no record
    assert state.test_opened[0][1] == OpenedTest(trial_keys=["a"], reason="end of sweep")
    assert state.evaluated == Evaluated(arms={"a": {"test/probe_joint/accuracy": 0.5}})
    assert state.is_complete


def test_a_ledger_of_an_earlier_version_can_be_continued(tmp_path: Path):
    folder = ledger_with(tmp_path / "s", EARLIER.read_bytes())
    with Ledger(folder) as ledger:
        ledger.append(SweepStarted(name="s", num_trials=3))
    state = read_ledger(folder)
    assert (state.opened.num_trials, state.started.num_trials) == (2, 3)
    assert state.finished is None


def test_a_line_has_the_name_of_its_event_and_its_fields_as_keys(tmp_path: Path):
    with Ledger(tmp_path / "s") as ledger:
        ledger.append(TrialReported(trial_key="a", attempt=1, epoch=2, metrics={"train/loss": 0.5}))
        time = LedgerReader(tmp_path / "s").poll()[0].time
    (found,) = (tmp_path / "s" / "ledger" / "segment-00000.jsonl").read_bytes().splitlines(keepends=True)
    payload = {"trial_key": "a", "attempt": 1, "epoch": 2, "metrics": {"train/loss": 0.5}}
    assert json.loads(found) == json.loads(line(0, "trial_reported", **payload)) | {
        "time": time, "sha": json.loads(found)["sha"],
    }  # fmt: skip


def test_every_event_comes_back_from_disk_as_it_was_written(tmp_path: Path):
    shutil.copytree(ledger_with(tmp_path / "old", EARLIER.read_bytes()), tmp_path / "s")
    events = [entry.event for entry in LedgerReader(tmp_path / "old").poll()]
    assert {type(event) for event in events} == set(EVENTS.values())
    with Ledger(tmp_path / "new") as ledger:
        for event in events:
            assert event is not None
            ledger.append(event)
    assert [entry.event for entry in LedgerReader(tmp_path / "new").poll()] == events


def test_names_and_classes_are_one_to_one():
    assert len(NAMES) == len(EVENTS) == 9


def test_an_event_of_a_later_version_is_passed_over_and_so_are_later_fields(tmp_path: Path):
    assert read_event("trial_cheered", {"trial_key": "a"}) is None
    warned = {"trial_key": "a", "attempt": 1, "message": "m", "colour": "red"}
    assert read_event("trial_warned", warned) == TrialWarned(trial_key="a", attempt=1, message="m")
    lines = line(0, "trial_cheered", trial_key="a"), line(1, "sweep_finished", exit_code=0, seconds=1.0)
    state = read_ledger(ledger_with(tmp_path / "s", *lines))
    assert state.finished == SweepFinished(exit_code=0, seconds=1.0)
    assert state.next_seq == 2


def test_a_line_that_lacks_a_field_is_refused_with_its_place(tmp_path: Path):
    folder = ledger_with(tmp_path / "s", line(0, "sweep_finished", exit_code=0))
    with pytest.raises(DataError, match=r"line 1: .*'seconds'"):
        read_ledger(folder)


def test_a_trial_key_cannot_lead_out_of_the_sweep():
    placed = TrialPlaced(trial_key="../x", arm_key="a", name="n", config={}, attempt=1)
    state = SweepState("s")
    with pytest.raises(DataError, match="is a path outside its folder"):
        state._place(placed)


def test_evaluated_has_the_fields_of_what_judges_the_arms():
    names = {field.name for field in fields(Evaluated)}
    assert names == {field.name for field in fields(EvaluationResult)} | {"first"}
